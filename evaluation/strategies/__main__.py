"""Several ways to get an answer out of one checkpoint, what each gains, and what it costs.

    python -m evaluation.strategies run.name=NAME
    python -m evaluation.strategies run.name=NAME strategies.names=[greedy,vote] strategies.samples=8 strategies.metrics=[mae]
    python -m evaluation.strategies run.name=NAME strategies.scorer=explanation explanation=own

greedy, vote, rerank and refine are explained in decide.py, the settings in conf/strategies/default.yaml; split, limit, length of an
answer and bootstrap are those of conf/eval. The checkpoint is that of `python -m evaluation`: the newest of the run, or eval.init.
"""

from omegaconf import DictConfig

from evaluation.score import align
from evaluation.stage import chosen_checkpoint
from evaluation.strategies.stage import run
from evaluation.strategies.table import calibration_rows, notes, printed
from models.session import open_session
from runtime.main import verb


@verb("eval")
def main(cfg: DictConfig) -> None:
    """Entry point."""
    session = open_session(cfg, parent=cfg.eval.init)
    name, checkpoint = chosen_checkpoint(session)
    result = run(session, name, checkpoint)
    print(printed(result))
    print("\n" + "\n".join(notes(result)))
    if result["calibration"] is not None:
        print("\n" + align(calibration_rows(result)))
    print(f"\n{session.folder / 'eval' / f'{name}-strategies' / 'strategies.html'}")


if __name__ == "__main__":
    main()
