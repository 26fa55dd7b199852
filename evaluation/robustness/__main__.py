"""What a checkpoint still knows when its input gets worse: modalities missing, noise, lost frames, another transcript.

    python -m evaluation.robustness run.name=NAME
    python -m evaluation.robustness run.name=NAME robustness.noise=babble robustness.snr=[10,0,-5] robustness.metrics=[polarity,mae]
    python -m evaluation.robustness run.name=NAME '+robustness.transcripts={text: whisper.jsonl}'

The conditions are explained in conditions.py, the settings in conf/robustness/default.yaml. The checkpoint is that of `python -m
evaluation`: the newest of the run, or eval.init.
"""

from omegaconf import DictConfig

from evaluation.robustness.stage import run
from evaluation.robustness.table import printed
from evaluation.stage import chosen_checkpoint
from models.session import open_session
from runtime.main import verb


@verb("eval")
def main(cfg: DictConfig) -> None:
    """Entry point."""
    session = open_session(cfg, parent=cfg.eval.init)
    name, checkpoint = chosen_checkpoint(session)
    print(printed(run(session, name, checkpoint)))
    print(f"\n{session.folder / 'eval' / f'{name}-robustness' / 'robustness.html'}")


if __name__ == "__main__":
    main()
