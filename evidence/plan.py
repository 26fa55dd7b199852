"""What is run: cold starts, and the arms that go on from them. Overrides are those of the commands.

E1 and E4, studio: the cold start sees chains of clips without conflict alone. It then holds the form (two samples in three are
right at temperature 1), and calibrates clips whose words agree with voice and face to within .3, the others to within 1.7
(seed 0). What an arm makes of it with the same number of generated tokens is compared on the test split, without hints.
"""

from collections.abc import Mapping

Overrides = tuple[str, ...]

STUDIO: Overrides = (
    "task=studio",
    "task.dev=60",
    "task.test=400",
    "synth.limit=null",
    "eval.silence=[]",
    "run.threads=1",
)
"""Of every command of E1 and E4."""
COLD: Overrides = ("sft.max_steps=200", "sft.eval_every=1000", "sft.save_every=1000")
POLICY: Overrides = (
    "rl.budget=240000",
    "rl.max_steps=100",
    "rl.schedule=constant",
    "rl.eval_every=10",
    "rl.save_every=1000",
)

E1: Mapping[str, Overrides] = {
    "grpo": ("hint=none",),
    "polarity": ("hint=polarity",),
    "learnt": ("hint=polarity_learnt",),
    "likelihood": ("hint=polarity", "hint.prefix=likelihood"),
    "weighted": ("hint=polarity", "hint.prefix=weighted"),
    "always": ("hint=always",),
    "dapo": ("hint=none", "rl.no_signal=resample"),
    "ladder": ("hint=ladder",),
    "adaptive": ("hint=adaptive",),
    "query": ("hint=query",),
    "self": ("hint=self",),
}
"""Arms that go on from the cold start; the first is the reference."""

E4: Mapping[str, Overrides] = {
    "learnt": ("hint=polarity_learnt",),
    "one row": ("hint=polarity_learnt", "hint.rows=one"),
    "all rows": ("hint=polarity_learnt", "hint.rows=all"),
    "context baseline": ("hint=polarity_learnt", "hint.baseline=context"),
    "leak not counted": ("hint=polarity_learnt", "hint.count_leaked=false"),
    "warm-up": ("hint=polarity_learnt", "hint.warmup=0.15"),
    "cosine": ("hint=polarity_learnt", "hint.schedule=cosine"),
    "ema": ("hint=polarity_learnt", "hint.schedule=ema"),
    "hard first": ("hint=polarity_learnt", "rl.order=hard_first"),
    "balanced": ("hint=polarity_learnt", "rl.order=balanced"),
    "no dead groups": ("hint=polarity_learnt", "rl.no_signal=drop"),
}
"""The reference with one knob turned."""
