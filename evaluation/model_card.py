"""The card of an exported model: what it learnt from, how, how well, and the commands that make it again."""

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from evaluation.card_text import FORM, HEARD, SPEECH, TEXT, USE, VLLM, serving
from runtime.secrets import redact, redact_command, redact_text
from tasks.record import read_records

PLACE = re.compile(r"(?<![\w.:/])/(?:[^/\s,'\"\]\[]+/)+")
"""Folders of an absolute path: a place on somebody's machine."""


def card(run: Path, checkpoint: Path, cfg: DictConfig, form: str, *, spoken: bool, licence: str | None) -> str:
    """The text of README.md.

    Args:
        run: the run folder; of its files only config.yaml has to be there.
        checkpoint: that is exported.
        cfg: of the run.
        form: one of `models.export.FORMS`.
        spoken: whether talker and voices are part of it.
        licence: as Hugging Face spells it; None leaves it out.
    """
    values: Any = redact(OmegaConf.to_container(cfg, resolve=True))
    task, model = values["task"], values["model"]
    summary, manifest = _read(run / "summary.json"), _read(run / "manifest.json")
    attempts = manifest.get("attempts", [])
    name = f"Undertone {model['name']} on {task['name']}"
    stage, *where = checkpoint.absolute().relative_to(run.absolute()).parts
    # what was evaluated is the end of a stage, not what was saved on the way
    evaluated = where == ["final"]
    result = (summary.get(stage) or _read(run / "eval" / stage / "stage.json").get("result", {})) if evaluated else {}
    known = model["source"].count("/") == 1 and not Path(model["source"]).exists()
    head: dict[str, Any] = {"license": licence} if licence else {}
    head |= {"library_name": "transformers", "pipeline_tag": "any-to-any", "datasets": [task["name"]]}
    head |= {"base_model": model["source"]} if known else {}
    head |= {"tags": ["emotion", "sentiment", "qwen2_5_omni", "undertone"]}
    if result:
        head["model-index"] = [
            {"name": name, "results": [_index(task["name"], values["eval"]["split"], result["metrics"])]}
        ]
    size = model["video_size"]
    body = TEXT.format(
        title=name,
        form=FORM[form],
        licence=licence or "not stated; it follows from the base model and the data, so state it with licence=",
        data=_data(run, task, summary, attempts),
        training=_training(values, stage),
        rewards=_table(("part of the score", "weight"), values["reward"]["weights"].items()),
        hint=_flat(values["hint"]),
        results=_results(result, summary.get("base", {}), values["eval"]["temperature"]),
        task=task["name"],
        speech="" if form == "thinker" else SPEECH[spoken],
        use=USE.format(
            cls=f"Qwen2_5Omni{'Thinker' if form == 'thinker' else ''}ForConditionalGeneration",
            after="" if form == "thinker" else "    # text alone: model.thinker.generate(...)",
            low=size.get("shortest_edge"),
            high=size.get("longest_edge"),
            frames=model["max_frames"],
            fps=model["fps"],
            sound=", with the sound of a video inside of it" if model["audio_in_video"] else "",
            size=json.dumps(size),
        )
        + _served(model, form),
        commands="\n".join(f"    {line}" for line in dict.fromkeys(map(_command, attempts))) or "There is no manifest.",
        versions=_versions(attempts),
        lineage=_lineage(manifest.get("lineage", {})),
    )
    return redact_text(f"---\n{OmegaConf.to_yaml(OmegaConf.create(head))}---\n{PLACE.sub('', body)}")


def _served(model: Mapping[str, Any], form: str) -> str:
    if form == "thinker":
        return ""
    options = shlex.join(serving(model["fps"], model["video_size"]))
    return VLLM.format(options=options, heard=HEARD[model["audio_in_video"]])


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _index(task: str, split: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of the model index, with plain numbers."""
    rows = [
        {"type": m, "name": m, "value": round(float(v["value"]), 4)} for m, v in metrics.items() if _number(v["value"])
    ]
    return {
        "task": {"type": "any-to-any"},
        "dataset": {"type": task, "name": task, "split": split},
        "metrics": rows,
    }


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and value == value


def _data(run: Path, task: Mapping[str, Any], summary: Mapping[str, Any], attempts: Sequence[Mapping[str, Any]]) -> str:
    path = run / "data" / "records.jsonl"
    said = [f"Task `{task['name']}`, views {', '.join(task['views'])}."]
    if path.is_file():
        records = read_records(path)
        rows = Counter(r.split for r in records)
        groups = {split: len({r.group for r in records if r.split == split}) for split in rows}
        said.append(_table(("split", "records", "groups"), ((s, n, groups[s]) for s, n in rows.items())))
    synth = summary.get("synth") or _read(run / "synth" / "stage.json").get("result")
    if synth:
        rejected = ", ".join(f"{reason} {n}" for reason, n in synth["rejected"].items()) or "none"
        said.append(
            f"Chains of thought: {synth['accepted']} kept of {synth['asked']} records asked about; rejected drafts: {rejected}."
        )
    if attempts and (records_of := attempts[-1]["inputs"].get("records")):
        said.append(f"SHA-256 of the records: `{records_of['sha256']}`.")
    return "\n\n".join(said)


def _training(values: Mapping[str, Any], stage: str) -> str:
    used = ("sft", "rl") if stage == "rl" else (stage,)
    rows = [(name, _flat({k: v for k, v in values[name].items() if v is not None})) for name in used if name in values]
    adapter = values["model"]["lora"]
    rows.append(("weights", f"adapter, merged: {_flat(adapter)}" if adapter else "all"))
    rows.append(("teacher", _flat(values["teacher"])))
    return _table(("stage", "settings"), rows) + f"\n\nSeed {values['seed']}."


def _results(result: Mapping[str, Any], before: Mapping[str, Any], temperature: float) -> str:
    if not result:
        return "It was not evaluated in its run."
    rule, old = result.get("baseline", {}), before.get("metrics", {})
    rows = [(m, _interval(v), _interval(old.get(m)), _interval(rule.get(m))) for m, v in result["metrics"].items()]
    how = result["interval"]
    note = (
        f"{result['n']} records. Brackets: {how['level']:.0%} bootstrap intervals over {how['units']} {how['unit']}s."
    )
    return (
        _table(("metric", "this model", "before training", "trivial rule"), rows)
        + f"\n\n{note} No hints, temperature {temperature:g}."
    )


def _interval(value: Any) -> str:
    if isinstance(value, Mapping):
        low, high = value.get("lo"), value.get("hi")
        return f"{value['value']:.3f}" + (f" [{low:.3f}, {high:.3f}]" if _number(low) and _number(high) else "")
    return f"{value:.3f}" if _number(value) else "-"


def _command(attempt: Mapping[str, Any]) -> str:
    program, *arguments = redact_command(attempt["command"])
    path = Path(program)
    module = path.parent.name if path.stem == "__main__" else path.stem
    kept = [a for a in arguments if not a.startswith("hydra.")]
    return " ".join(["python -m", module, *(shlex.quote(PLACE.sub("", a)) for a in kept)])


def _versions(attempts: Sequence[Mapping[str, Any]]) -> str:
    if not attempts:
        return ""
    last = attempts[-1]
    git, machine = last["git"], last["machine"]
    revision = f"`{git['revision']}`{' with changes' if git['dirty'] else ''}" if git else "unknown"
    packages = ", ".join(f"{k} {v}" for k, v in last["packages"].items())
    gpus = ", ".join(machine["gpus"]) or "no GPU"
    return f"Revision {revision}; Python {last['python']}, {packages}; {machine['system']}, {machine['cores']} cores, {gpus}."


def _lineage(lineage: Mapping[str, Any]) -> str:
    rows = [
        (stage, ", ".join(found.get("used", {})), ", ".join(found.get("made", {}))) for stage, found in lineage.items()
    ]
    return _table(("stage", "read", "wrote"), rows) if rows else ""


def _flat(value: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items())


def _table(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    cells = [
        head,
        ["---"] * len(head),
        *([str(v).replace("|", r"\|").replace("\n", " ") for v in line] for line in lines),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
