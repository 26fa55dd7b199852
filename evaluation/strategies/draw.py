"""Everything that a checkpoint is asked to say, once for all strategies: `drawn.jsonl`.

Each clip has one prefilled prompt, behind which come the likeliest answer, the samples, and the second turn of refine. The draws
of a batch of clips depend on the seed and on the place of the batch alone, so that a call that was killed goes on with the
batch that it was at, and ends with the same file.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from evaluation.answers import answer_logprob
from evaluation.strategies.config import StrategiesConfig
from models.engine.base import Completion, Engine, Sampling
from models.processor import Encoded, Processor
from runtime.errors import ConfigError, MediaError
from runtime.files import write_text
from runtime.seeds import seed_everything
from tasks.base import Message, Task
from tasks.dc import Answer
from tasks.record import Record

DRAWN = "drawn.jsonl"


@dataclass(frozen=True, slots=True)
class Reply:
    """One completion."""

    text: str
    tokens: int
    """Generated, the end token included."""
    logprob: float | None
    """Mean over the tokens of its answer, at the temperature that it was drawn at (1 for the likeliest); None where none can be
    read."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was said about one clip."""

    uid: str
    prompt: int
    """Tokens of the prompt, those of its media included."""
    greedy: Reply
    samples: tuple[Reply, ...]
    refined: Reply | None
    """The answer to the second turn; None where refine was not asked for, or the first answer cannot be shown again."""
    turn: int
    """Tokens that are read for the second turn behind the prompt: the first answer and the request."""


def drawn_from_json(row: dict[str, Any]) -> Drawn:
    """A line of `drawn.jsonl`."""
    return Drawn(
        row["uid"],
        row["prompt"],
        Reply(**row["greedy"]),
        tuple(Reply(**one) for one in row["samples"]),
        None if row["refined"] is None else Reply(**row["refined"]),
        row["turn"],
    )


def draw(
    task: Task,
    engine: Engine,
    records: Sequence[Record],
    root: Path,
    cfg: StrategiesConfig,
    max_new_tokens: int,
    seed: int,
    folder: Path,
) -> list[Drawn]:
    """Ask about every record that a former call did not come to, and add it to `folder/drawn.jsonl`.

    Args:
        task: makes the prompts.
        engine: holds the checkpoint.
        records: [N].
        root: below which their media lie.
        cfg: what is drawn, and how many prompts at a time.
        max_new_tokens: of each completion.
        seed: of the draws.
        folder: of the files.

    Returns:
        [N], in the order of the records.

    Raises:
        MediaError: for media that cannot be read.
        ConfigError: for refine with a chat template that rewrites earlier turns.
    """
    path = folder / DRAWN
    rows = _kept(path, len(records), cfg.batch)
    with tqdm(total=len(records), initial=len(rows), desc="answers", leave=False, disable=None) as bar:
        for start in range(len(rows), len(records), cfg.batch):
            seed_everything(int(np.random.SeedSequence([seed, start]).generate_state(1)[0]))
            part = _batch(task, engine, records[start : start + cfg.batch], root, cfg, max_new_tokens)
            rows += [asdict(one) for one in part]
            with path.open("a", encoding="utf-8") as out:
                out.writelines(json.dumps(asdict(one)) + "\n" for one in part)
            bar.update(len(part))
    return [drawn_from_json(row) for row in rows]


def _kept(path: Path, total: int, batch: int) -> list[dict[str, Any]]:
    """What a former call has left of whole batches; what it has left of another one is removed."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # the last one is empty, or torn
    whole = len(lines) if len(lines) == total else len(lines) // batch * batch
    write_text(path, "".join(f"{line}\n" for line in lines[:whole]))
    return [json.loads(line) for line in lines[:whole]]


def _batch(
    task: Task, engine: Engine, records: Sequence[Record], root: Path, cfg: StrategiesConfig, max_new_tokens: int
) -> list[Drawn]:
    processor, likeliest = engine.processor, Sampling(max_new_tokens, 0.0)
    prompts = [processor.encode(task.prompt(record, root)) for record in records]
    state = engine.prefill(prompts)
    first = _replies(task, processor, records, engine.sample(state, range(len(records)), likeliest))
    prompt_of = [i for i in range(len(records)) for _ in range(cfg.drawn)]
    drawn = engine.sample(state, prompt_of, Sampling(max_new_tokens, cfg.temperature)) if cfg.drawn else []
    samples = _replies(task, processor, [records[i] for i in prompt_of], drawn)
    turns: dict[int, list[int]] = {}
    if "refine" in cfg.names:
        shown = [second_turn(processor, p, one.text, cfg.request) for p, one in zip(prompts, first, strict=True)]
        turns = {i: turn for i, turn in enumerate(shown) if turn is not None}
    said = engine.sample(state, list(turns), likeliest, list(turns.values())) if turns else []
    second = dict(zip(turns, _replies(task, processor, [records[i] for i in turns], said), strict=True))
    return [
        Drawn(
            record.uid,
            len(prompts[i].ids),
            first[i],
            tuple(samples[i * cfg.drawn : (i + 1) * cfg.drawn]),
            second.get(i),
            len(turns.get(i, ())),
        )
        for i, record in enumerate(records)
    ]


def _replies(task: Task, processor: Processor, records: Sequence[Record], said: Sequence[Completion]) -> list[Reply]:
    replies = []
    for record, one in zip(records, said, strict=True):
        text = processor.decode(one.token_ids)
        read = isinstance(task.parse(record, text), Answer)
        replies.append(Reply(text, len(one.token_ids), answer_logprob(processor, one) if read else None))
    return replies


def second_turn(processor: Processor, prompt: Encoded, said: str, request: str) -> list[int] | None:
    """What follows a prompt when its first answer is shown again with a request: token ids up to where the second one begins.

    The whole conversation goes through the processor, as any prompt does; what it adds to the first prompt is read behind that
    prompt's cache, so that no media are seen twice.

    Returns:
        The token ids; None when the answer spells a token that stands for media, which no prompt may hold.

    Raises:
        ConfigError: when the chat template changes the first prompt once a second turn follows.
    """
    turns: list[Message] = [
        {"role": "assistant", "content": [{"type": "text", "text": said.strip()}]},
        {"role": "user", "content": [{"type": "text", "text": request.strip()}]},
    ]
    try:
        ids = processor.encode([*prompt.messages, *turns]).ids
    except MediaError:  # the first prompt was fine, so it is the answer
        return None
    known = len(prompt.ids)
    if not torch.equal(ids[:known], prompt.ids):
        raise ConfigError(
            "strategies.names: refine reads a second turn behind the first prompt, and this model's chat template changes that "
            "prompt when a turn follows; leave refine out"
        )
    return ids[known:].tolist()
