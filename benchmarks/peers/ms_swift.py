"""GRPO steps of ms-swift. Runs in ms-swift's environment and imports nothing of ours; started by `benchmarks.peers`.

    python ms_swift.py FOLDER

FOLDER holds `checkpoint/`, `prompts.jsonl`, and `plan.json` with the numbers of the run. Written back: `steps.json`, CPU
seconds of every optimizer step, how much of them the old-policy pass took, and those of ffmpeg's processes; and `first.pt`,
what the first step sampled and which log-probabilities the old-policy pass gave it.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
import json
import os
import stat
import sys
import time
from pathlib import Path

FOLDER = Path(sys.argv[1]).resolve()
PLAN = json.loads((FOLDER / "plan.json").read_text())
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "USE_HF": "1",
    "MODELSCOPE_CACHE": str(FOLDER / "modelscope"),
    "USE_AUDIO_IN_VIDEO": "1",  # off by default, and the sound is then left out without a word
    "ENABLE_AUDIO_OUTPUT": "0",  # no talker
    "FPS": str(PLAN["fps"]),
    "VIDEO_MIN_TOKEN_NUM": "4",
    "VIDEO_MAX_TOKEN_NUM": "64",
    "FORCE_QWENVL_VIDEO_READER": "decord",
}


def ffmpeg_on_path() -> None:
    """Under its plain name, which is what audioread looks for."""
    import imageio_ffmpeg

    link = FOLDER / "bin" / "ffmpeg"
    if not link.exists():
        link.parent.mkdir()
        link.write_text(f'#!/bin/sh\nexec "{imageio_ffmpeg.get_ffmpeg_exe()}" "$@"\n')
        link.chmod(link.stat().st_mode | stat.S_IXUSR)
    os.environ["PATH"] = f"{link.parent}:{os.environ['PATH']}"


ffmpeg_on_path()

import torch  # noqa: E402
from swift.pipelines import rlhf_main  # noqa: E402
from swift.rewards import ORM, orms  # noqa: E402
from swift.rlhf_trainers import GRPOTrainer  # noqa: E402
from transformers import GenerationMixin, TrainerCallback  # noqa: E402

torch.set_num_threads(1)
found: dict[str, list[float]] = {"steps": [], "old_policy": [], "children": []}


class Watch(ORM):
    """Share of the characters that are new, as in benchmarks/scene.py."""

    def __call__(self, completions: list[str], **_: object) -> list[float]:
        """A reward for each completion."""
        return [len(set(text)) / max(1, len(text)) for text in completions]


class Stopwatch(TrainerCallback):
    """CPU seconds of every optimizer step, of this process and of the children that ended in it."""

    def on_step_begin(self, *_: object, **__: object) -> None:
        """Start."""
        found["old_policy"].append(0.0)
        self.start, self.children = time.process_time(), children()

    def on_step_end(self, *_: object, **__: object) -> None:
        """Stop."""
        found["steps"].append(time.process_time() - self.start)
        found["children"].append(children() - self.children)


def children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def watched() -> None:
    """Give the trainer the stopwatch, note the old-policy pass, and let no completion end early."""
    make, score, generate = (
        GRPOTrainer.__init__,
        GRPOTrainer._get_per_token_logps_and_entropies,
        GenerationMixin.generate,
    )

    def init(self, *args, **kwargs):
        make(self, *args, **kwargs)
        self.add_callback(Stopwatch())

    def scored(self, model, model_inputs, grpo_batch, *args, **kwargs):
        start = time.process_time()
        out = score(self, model, model_inputs, grpo_batch, *args, **kwargs)
        if not torch.is_grad_enabled():
            found["old_policy"][-1] += time.process_time() - start
            if not (FOLDER / "first.pt").exists():
                keep = grpo_batch.logits_to_keep
                ids = model_inputs["input_ids"]
                first = {"prompt_ids": ids[:, :-keep], "completion_ids": ids[:, -keep:], "logps": out[0]}
                torch.save(first, FOLDER / "first.pt")
        return out

    def endless(self, *args, generation_config, **kwargs):
        generation_config.suppress_tokens = PLAN["forbidden"]
        return generate(self, *args, generation_config=generation_config, **kwargs)

    GRPOTrainer.__init__, GRPOTrainer._get_per_token_logps_and_entropies = init, scored
    GenerationMixin.generate = endless


def settings() -> list[str]:
    """Command line of `swift rlhf`: the settings of our step, in its words."""
    rows = PLAN["prompts"] * PLAN["group"]
    given = {
        "rlhf_type": "grpo",
        "model": FOLDER / "checkpoint",
        "model_type": "qwen2_5_omni",
        "template": "qwen2_5_omni",
        "system": "",
        "torch_dtype": "float32",
        "attn_impl": "sdpa",
        "tuner_type": "full",
        "freeze_vit": "true",
        "freeze_aligner": "true",
        "use_cpu": "true",
        "bf16": "false",
        "fp16": "false",
        "gradient_checkpointing": "false",
        "dataset": FOLDER / "prompts.jsonl",
        "split_dataset_ratio": 0,
        "dataset_shuffle": "false",
        "max_length": 8192,
        "reward_funcs": "watch",
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": 1,
        "steps_per_generation": 1,
        "num_generations": PLAN["group"],
        "max_completion_length": PLAN["completion"],
        "max_steps": PLAN["steps"],
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "warmup_ratio": 0,
        "weight_decay": 0,
        "temperature": 1.0,
        "top_k": PLAN["vocabulary"],  # 0 silently means 50
        "top_p": 1.0,
        "beta": 0.0,
        "loss_type": "dr_grpo",
        "scale_rewards": "none",
        "logging_steps": 1,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "dataloader_num_workers": 0,
        "dataset_num_proc": 1,
        "seed": 0,
        "output_dir": FOLDER / "swift",
    }
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


if __name__ == "__main__":
    orms["watch"] = Watch
    watched()
    rlhf_main(settings())
    (FOLDER / "steps.json").write_text(json.dumps(found))
