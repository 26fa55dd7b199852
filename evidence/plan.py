"""What is run: studies, each a cold start and the arms that are compared. Overrides are those of the commands.

All arms of a study that train a policy start from the same cold start of their seed, generate as many tokens, and are compared
on the test split of the studio, without hints.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

Overrides = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Arm:
    """One thing to train and to evaluate."""

    overrides: Overrides = ()
    verb: str = "rl"
    start: str = "cold"
    """What `rl` starts from: cold, the study's cold start; labels, one on the bare labels of the same clips; base, the model that
    perceives and was never shown an answer."""


@dataclass(frozen=True, slots=True)
class Study:
    """A cold start, and the arms that go on from it; the first is the reference."""

    every: Overrides
    """Of all commands."""
    conflicts: bool
    """Whether the cold start sees clips whose words, voice and face disagree."""
    sft: Overrides
    rl: Overrides
    arms: Mapping[str, Arm]
    explained: bool = False
    """Whether explanations are paid for by one verifier and read by another (`evidence/readers.py`)."""


ALL: Overrides = ("task=studio", "task.test=400", "eval.silence=[]", "run.threads=1")

HINTS: Mapping[str, Arm] = {
    "grpo": Arm(("hint=none",)),
    "learnt": Arm(("hint=polarity_learnt",)),
    "polarity": Arm(("hint=polarity",)),
    "weighted": Arm(("hint=polarity", "hint.prefix=weighted")),
    "likelihood": Arm(("hint=polarity", "hint.prefix=likelihood")),
    "ladder": Arm(("hint=ladder",)),
    "adaptive": Arm(("hint=adaptive",)),
    "dapo": Arm(("hint=none", "rl.no_signal=resample")),
    "always": Arm(("hint=always",)),
    "query": Arm(("hint=query",)),
    "self": Arm(("hint=self",)),
}

DEFAULT = Study(
    every=(*ALL, "task.dev=120"),
    conflicts=True,
    sft=("sft.eval_every=1000", "sft.save_every=1000"),
    rl=("rl.budget=400000", "rl.max_steps=75", "rl.eval_every=10", "rl.save_every=1000"),
    arms=HINTS
    | {
        # 72 steps of RL take as long as 470 of SFT
        "more sft": Arm(("sft.max_steps=670",), verb="sft"),
        "no cold start": Arm(("hint=none",), start="base"),
        "regression head": Arm(verb="evaluation.baselines regression", start="base"),
    },
)
"""E1: the built-in default, with fewer steps. Learning rates fall to 0 within the budget."""

CONFIRM = replace(
    DEFAULT, every=(*DEFAULT.every, "task.seed=2"), arms={name: HINTS[name] for name in ("grpo", "learnt")}
)
"""E1's one question, asked again: do hints help on clips with a conflict? Other clips, and to be run with other seeds (5 to 16)."""

NO_CONFLICT = Study(
    every=(*ALL, "task.dev=60", "synth.limit=null"),
    conflicts=False,
    sft=("sft.max_steps=200", "sft.eval_every=1000", "sft.save_every=1000"),
    rl=("rl.budget=240000", "rl.max_steps=100", "rl.schedule=constant", "rl.eval_every=10", "rl.save_every=1000"),
    arms=HINTS,
)
"""E1 again, from a cold start that calibrates clips without a conflict to within .3, and the others to within 1.7 (seed 0)."""

KNOBS = Study(
    every=DEFAULT.every,
    conflicts=True,
    sft=DEFAULT.sft,
    rl=DEFAULT.rl,
    arms={
        "learnt": HINTS["learnt"],
        "one row": Arm(("hint=polarity_learnt", "hint.rows=one")),
        "all rows": Arm(("hint=polarity_learnt", "hint.rows=all")),
        "context baseline": Arm(("hint=polarity_learnt", "hint.baseline=context")),
        "leak not counted": Arm(("hint=polarity_learnt", "hint.count_leaked=false")),
        "warm-up": Arm(("hint=polarity_learnt", "hint.warmup=0.15")),
        "cosine": Arm(("hint=polarity_learnt", "hint.schedule=cosine")),
        "ema": Arm(("hint=polarity_learnt", "hint.schedule=ema")),
        "hard first": Arm(("hint=polarity_learnt", "rl.order=hard_first")),
        "balanced": Arm(("hint=polarity_learnt", "rl.order=balanced")),
        "no dead groups": Arm(("hint=polarity_learnt", "rl.no_signal=drop")),
    },
)
"""E4: the default hint with one knob turned."""

PAYER = "explanation.verifier={out}/payer"
READER: Overrides = ("explanation=erv", "explanation.verifier={out}/reader", "explanation.evidence=true")
"""Of every evaluation of a study of explanations; `{out}` stands for the folder of the study."""

PAID: Mapping[str, Overrides] = {
    "none": (),
    "erv": ("explanation=erv", PAYER),
    "own": ("explanation=own", PAYER),
    "gated": ("explanation=gated", PAYER),
    "evidence": ("explanation=evidence", PAYER),
}
"""What is paid for explanations, beside the default's reward."""

UNTHINKING = Arm(("task.grammar=answer", "hint=none"), start="labels")
"""Bare answers: no verdict to hint at, and nothing to explain."""

EXPLANATIONS = Study(
    every=DEFAULT.every,
    conflicts=True,
    sft=DEFAULT.sft,
    rl=("rl.budget=240000", "rl.max_steps=45", "rl.eval_every=0", "rl.save_every=1000"),
    arms={name: Arm(("hint=polarity_learnt", *paid)) for name, paid in PAID.items()} | {"no thinking": UNTHINKING},
    explained=True,
)
"""E5: the default hint, and what is paid for explanations."""

STUDIES: Mapping[str, Study] = {
    "e1": DEFAULT,
    "e1-confirm": CONFIRM,
    "e1-no-conflict": NO_CONFLICT,
    "e4": KNOBS,
    "e5": EXPLANATIONS,
}
