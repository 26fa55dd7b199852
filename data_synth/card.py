"""The card of an exported dataset: what it holds, who wrote it with which settings, and what the filter did."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from data_synth.output import Output, rows

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
"""Below how many rows which word of Hugging Face holds."""

TEXT = """
# {title}

{number} chains of thought about the training records of `{task}`, written by a teacher that did not see the label{told}. Each
was graded by the task against the label and kept only if it passed. `prompt` and `completion` are a conversational dataset as TRL
reads it.

**Licence of the source corpus**: {licence}. The prompts quote the corpus and the targets are its labels, so its terms hold
for both; the terms of the teacher's provider may hold for the completions.

**Media** are not in here: `path` points below the root of the corpus.

## Teacher

{teacher}

## Filter

{asked} records were asked about, {accepted} chains accepted ({share:.1%}).{spent}

{reasons}

{coarse}

## Settings

{settings}
"""


def card(out: Output, number: int, licence: str | None) -> str:
    """The text of README.md.

    Args:
        out: of a synthesis.
        number: how many chains are exported, 1 or more.
        licence: of the source corpus, as Hugging Face spells it; None for unknown.
    """
    first = next(rows(out.folder / "chains.jsonl"))["meta"]["synth"]
    steps = Counter(row["meta"]["synth"]["step"] for row in rows(out.folder / "chains.jsonl"))
    synth: Any = OmegaConf.to_container(out.config.synth, resolve=True)
    title = f"Chains of thought for {out.task.name}"
    head = {"license": licence or "unknown"} | ({"language": [synth["language"]]} if synth["language"] else {})
    head |= {
        "pretty_name": title,
        "size_categories": [next((word for most, word in SIZES if number < most), "n>1M")],
        "tags": ["chain-of-thought", "emotion", "sentiment", "undertone"],
    }
    result = out.result
    told = f" ({steps['rewrite']} of them were written once more with the label at hand, and lead to it without)"
    spent = {key: result[key] for key in ("requests", "tokens", "cost") if result[key]}
    body = TEXT.format(
        title=title,
        number=number,
        task=out.task.name,
        told=told if steps["rewrite"] else "",
        licence=licence or "unknown: state it with licence=",
        teacher=_table(("setting", "value"), ({"teacher": first["teacher"]} | first["settings"]).items()),
        asked=result["asked"],
        accepted=result["accepted"],
        share=result["accepted"] / result["asked"],
        spent="".join(f" {key.capitalize()}: {value}." for key, value in spent.items()),
        reasons=_table(("rejected because", "drafts"), result["rejected"].items()),
        coarse=_table(
            ("direction", "asked", "accepted"), ((c, n["asked"], n["accepted"]) for c, n in result["by_coarse"].items())
        ),
        settings=_table(("setting", "value"), synth.items()),
    )
    return f"---\n{OmegaConf.to_yaml(head)}---\n{body}"


def _table(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    cells = [head, ["---"] * len(head), *([_cell(value) for value in line] for line in lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return ("none" if value is None else str(value)).replace("|", r"\|").replace("\n", " ")
