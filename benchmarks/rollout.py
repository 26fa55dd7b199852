"""What sharing the prompt saves: sampling and scoring a group with the prompt run once, against once per row.

    python -m benchmarks.rollout [group] [completion]       or: make bench

Both sides are first shown to give the same numbers. Times are CPU seconds of one thread, medians of five; only their ratios
mean anything on a shared machine.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from trl.trainer.utils import add_fused_lm_head

from models import tiny
from models.engine.hf import HFEngine, Sampling
from models.processor import MediaSettings, Processor
from models.shared_prefix import SharedPrefix, attach, shifted_labels
from tasks.studio.task import Studio

PROMPTS = 4
SHAPE = tiny.TinyShape(width=128, layers=4, tower_width=64, tower_layers=2, max_audio_s=30)


def cpu_seconds(work: Callable[[], Any]) -> float:
    """Median CPU seconds of five calls, after one that is not counted."""
    work()
    times = []
    for _ in range(5):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return median(times)


def repeated(batch: dict[str, Any], times: int) -> dict[str, Any]:
    """A batch with every prompt, media included, `times` over: what scoring row by row has to feed the model."""
    out = {}
    for name, value in batch.items():
        if not torch.is_tensor(value):
            out[name] = value
        elif name == "pixel_values_videos":
            out[name] = torch.cat([clip.repeat(times, 1) for clip in value.chunk(PROMPTS)])
        else:
            out[name] = value.repeat_interleave(times, 0)
    return out


def main(group: int, length: int) -> None:
    """Print a table of CPU seconds and ratios."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        task = Studio(
            name="bench", views=("video", "text"), grammar="dc", train=PROMPTS, dev=0, test=0, conflict=0.4, seed=0
        )
        data = task.dataset(Path(folder))
        tokenizer = tiny.build_tokenizer(tiny.CORPUS)
        settings = MediaSettings(True, 4.0, 8, {"shortest_edge": 6272, "longest_edge": 200704})
        processor = Processor(tiny.build_processor(tokenizer, SHAPE.max_audio_s), settings)
        prompts = [processor.encode(task.prompt(r, data.root)) for r in data.records]
    model = tiny.build_model(tokenizer, SHAPE, seed=0)
    attach(model)
    add_fused_lm_head(model)
    rows = PROMPTS * group
    batch = processor.collate(prompts)
    full = repeated(batch, group)
    length_p = batch["input_ids"].shape[1]
    ids = torch.randint(0, 256, (rows, length), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    shared = SharedPrefix(batch, ids, mask, torch.arange(PROMPTS).repeat_interleave(group))

    def score_shared() -> torch.Tensor:
        return model(labels=shifted_labels(ids, mask), fused_lm_head=True, shared_prefix=shared).log_probs

    def score_rows() -> torch.Tensor:
        whole = {
            **full,
            "input_ids": torch.cat([full["input_ids"], ids], 1),
            "attention_mask": torch.cat([full["attention_mask"], mask], 1),
        }
        labels = torch.cat([torch.full_like(full["input_ids"], -100), ids], 1)
        return model(**whole, labels=labels, fused_lm_head=True).log_probs[:, -length:]

    difference = (score_shared() - score_rows()).abs().max().item()
    assert difference < 1e-4, difference

    engine, greedy = HFEngine(model, processor), Sampling(length, 0.0)
    prompt_of = [b for b in range(PROMPTS) for _ in range(group)]

    def sample_shared() -> list[list[int]]:
        return [list(c.token_ids) for c in engine.sample(engine.prefill(prompts), prompt_of, greedy)]

    @torch.no_grad()
    def sample_rows() -> list[list[int]]:
        out = model.generate(  # pyright: ignore[reportAttributeAccessIssue]  (hidden by its lazy import)
            **full,
            max_new_tokens=length,
            do_sample=False,
            suppress_tokens=processor.forbidden_ids,
            use_cache=True,
        )
        return out[:, length_p:].tolist()

    ends, blank = processor.eos_ids[0], processor.tokenizer.pad_token_id
    plain = [[t for t in row if t != blank] for row in sample_rows()]
    assert sample_shared() == plain, f"greedy samples differ (end token {ends})"

    print(
        f"{PROMPTS} prompts of {length_p} tokens, {group} completions of {length}; log-probabilities differ by {difference:.1e}"
    )
    print(f"{'':28}{'rows':>9}{'shared':>9}{'ratio':>8}")
    for name, by_rows, by_sharing in (
        ("sampling", sample_rows, sample_shared),
        ("scoring", lambda: score_rows().detach(), lambda: score_shared().detach()),
        ("scoring and backward", lambda: score_rows().sum().backward(), lambda: score_shared().sum().backward()),
    ):
        a, b = cpu_seconds(by_rows), cpu_seconds(by_sharing)
        print(f"{name:28}{a:8.2f}s{b:8.2f}s{a / b:7.1f}x")


if __name__ == "__main__":
    numbers = [int(a) for a in sys.argv[1:]]
    main(*(numbers or [8, 32]))
