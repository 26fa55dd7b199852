"""Tasks, an engine and settings that the tests of the rl room share."""

from collections.abc import Callable, Sequence
from pathlib import Path
from zlib import crc32

import torch

from evaluation.grading import RewardConfig
from models.engine.hf import Completion, HFEngine, Sampling
from models.fingerprint import Fingerprint
from models.processor import Encoded, Processor
from rl.config import HintConfig, RLConfig
from tasks.base import PARTS, Score, Task
from tasks.record import Record
from tasks.studio.task import Studio
from tasks.target import Scalar, Target


class Remarks(Task):
    """Short remarks with an intensity on [-3, 3]."""

    def __init__(self, grammar: str = "dc") -> None:
        super().__init__(name="remarks", views=["text"], grammar=grammar)

    def prepare(self, folder: Path) -> Path:
        raise NotImplementedError("the tests hand in their records")

    def question(self, record: Record) -> str:
        return "How does the speaker feel, from -3 to 3?"

    def metrics(self, gold: Sequence[Target], answers: Sequence[Target | None]) -> dict[str, float]:
        return {"answered": sum(a is not None for a in answers) / len(gold)}

    def baseline(self, train: Sequence[Record], test: Sequence[Record]) -> list[Target]:
        return [train[0].target for _ in test]


class Arbitrary:
    """Grades any text whatever: a random model writes nothing that is an answer, and equal rewards teach nothing.

    A record whose uid is in `hard` has the direction wrong unless the text opens with a hint; all others have it right.
    """

    hard: frozenset[str] = frozenset()

    def score(self, record: Record, completion: str) -> Score:
        number = crc32(completion.encode())
        right = record.uid not in self.hard or completion.startswith("<discriminate>")
        parts = {
            "format": float(number % 2),
            "discriminate": float(right),
            "calibrate": number // 2 % 101 / 100,
            "agreement": float(number // 512 % 2),
            "explanation": None,
            "evidence": None,
        }
        return Score(parts, None, None)


class ArbitraryRemarks(Arbitrary, Remarks):
    """Remarks, graded arbitrarily."""


class ArbitraryStudio(Arbitrary, Studio):
    """The built-in task, graded arbitrarily."""


class Script:
    """An engine that says, round by round, what it is told."""

    def __init__(self, processor: Processor, *rounds: Sequence[str]) -> None:
        self.processor = processor
        self.rounds = list(rounds)
        self.calls: list[tuple[list[int], list[tuple[int, ...]] | None]] = []
        """Of every round: the prompt of each completion, and the prefixes."""
        self.prefilled: list[list[str]] = []
        """Texts of the prompts of every prefill."""
        self.fingerprints: list[Fingerprint] = []

    def prefill(self, prompts: Sequence[Encoded]) -> int:
        self.prefilled.append([self.processor.tokenizer.decode(p.ids) for p in prompts])
        self.fingerprints = [Fingerprint({}, ()) for _ in prompts]
        return len(prompts)

    def sample(
        self,
        state: int,
        prompt_of: Sequence[int],
        sampling: Sampling,
        prefixes: Sequence[Sequence[int]] | None = None,
    ) -> list[Completion]:
        self.calls.append((list(prompt_of), None if prefixes is None else [tuple(p) for p in prefixes]))
        said = [tuple(self.processor.answer_ids(text)) for text in self.rounds.pop(0)]
        assert len(said) == len(prompt_of)
        return [Completion(ids, (-1.0,) * len(ids), True) for ids in said]


def row_logps(
    model: torch.nn.Module,
    processor: Processor,
    prompt: Encoded,
    completion: Sequence[int] | torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """(T,) log-probabilities of one completion by one plain forward over prompt and completion."""
    batch = processor.collate([prompt])
    own = torch.as_tensor(completion)
    ids = torch.cat([batch["input_ids"], own[None]], 1)
    logits = model(**batch | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits[0]
    scaled = logits[len(prompt.ids) - 1 : -1].float() / temperature
    return scaled.log_softmax(-1).gather(1, own[:, None])[:, 0]


class Told(HFEngine):
    """The policy's engine, which is told what to say and records how likely the policy would have said it.

    Args:
        model: the policy.
        processor: its processor.
        say: from the text of the prompt, and the opening that a hint forces, to what follows.
    """

    def __init__(self, model: torch.nn.Module, processor: Processor, say: Callable[[str, str], str]) -> None:
        super().__init__(model, processor)
        self.say = say

    def prefill(self, prompts: Sequence[Encoded]) -> Sequence[Encoded]:  # type: ignore[override]
        super().prefill(prompts)
        return prompts

    @torch.no_grad()
    def sample(  # type: ignore[override]
        self,
        state: Sequence[Encoded],
        prompt_of: Sequence[int],
        sampling: Sampling,
        prefixes: Sequence[Sequence[int]] | None = None,
    ) -> list[Completion]:
        said = []
        for prompt, hint in zip([state[b] for b in prompt_of], prefixes or [()] * len(prompt_of), strict=True):
            text = self.say(self.processor.decode(prompt.ids.tolist()), self.processor.decode(hint))
            ids = tuple(self.processor.answer_ids(text))
            logps = row_logps(self.model, self.processor, prompt, [*hint, *ids], sampling.temperature)
            said.append(Completion(ids, tuple(logps[len(hint) :].tolist()), True))
        return said


def brief(processor: Processor) -> Processor:
    """One for which a fifth of all tokens end an answer: completions of a random model get different lengths."""
    new = Processor(processor.processor, processor.settings)
    new.eos_ids = [*new.eos_ids, *range(0, len(new.tokenizer), 5)]
    return new


TEXTS = [
    "what a lovely day",
    "this is terrible",
    "fine, I guess",
    "I adore it",
    "so sad today",
    "a table and two chairs",
]


def remark(uid: str = "r-0", text: str = TEXTS[0], x: float = 2.0, target: Target | None = None) -> Record:
    """One remark."""
    return Record(
        uid=uid,
        task="remarks",
        split="train",
        group=uid,
        views={"text": text},
        target=target or Scalar(x, -3, 3, 0.2),
    )


def remarks() -> list[Record]:
    """Six remarks, every other one negative."""
    return [remark(f"r-{i}", text, (2.0, -2.0)[i % 2]) for i, text in enumerate(TEXTS)]


def rl_config(**changes) -> RLConfig:
    """Small settings: two prompts of four rollouts, six tokens each."""
    settings = {
        "init": None,
        "max_steps": 2,
        "prompts": 2,
        "chains": None,
        "budget": None,
        "group": 4,
        "accumulation": 1,
        "iterations": 1,
        "lr": 1e-3,
        "schedule": "constant",
        "warmup": 0.0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "loss": "dr_grpo",
        "beta": 0.0,
        "scale": "none",
        "temperature": 1.0,
        "max_new_tokens": 6,
        "scoring": "auto",
        "gradient_checkpointing": False,
        "no_signal": "keep",
        "resamples": 2,
        "order": "none",
        "hard_below": 0.5,
        "parity_every": 100,
        "parity_tolerance": 1e-4,
        "eval_every": 0,
        "save_every": 100,
        "log_every": 1,
    }
    return RLConfig(**settings | changes)  # type: ignore[arg-type]


def hint_config(**changes) -> HintConfig:
    """Half of a stuck group is hinted."""
    settings = {
        "strategy": "polarity",
        "when": "stuck",
        "rows": "share",
        "share": 0.5,
        "baseline": "shared",
        "count_leaked": True,
        "prefix": "masked",
        "likelihood": 0.1,
        "warmup": 0.0,
        "schedule": "constant",
        "ema_decay": 0.9,
        "ema_off": 0.95,
        "start": 0.5,
        "target": 0.5,
        "gain": 0.1,
    }
    return HintConfig(**settings | changes)  # type: ignore[arg-type]


def weights(**changes: float) -> RewardConfig:
    """The default weights."""
    weights = dict.fromkeys(PARTS, 0.0) | {"format": 0.5, "discriminate": 1.0, "calibrate": 1.0, "agreement": 0.25}
    return RewardConfig(weights | changes)
