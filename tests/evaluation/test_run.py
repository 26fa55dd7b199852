"""Unhinted evaluation on the tiny model: the same answers in any batch, modalities blanked one at a time, everything on disk."""

from dataclasses import replace
from pathlib import Path
from unittest.mock import create_autospec

import pytest

from evaluation.run import EvalConfig, complete, evaluate, measure
from models.engine.hf import HFEngine
from models.processor import Processor
from runtime.errors import ConfigError
from runtime.files import read_jsonl
from tasks.base import PARTS, Dataset
from tasks.record import Record

CFG = EvalConfig(
    split="test",
    limit=None,
    batch=8,
    max_new_tokens=6,
    temperature=0.0,
    silence=["audio", "video", "text"],
    resamples=20,
    init=None,
)
PROCESSOR = create_autospec(Processor, instance=True)
"""For runs whose answers are made up."""


def answering(monkeypatch: pytest.MonkeyPatch, text: str) -> list[frozenset[str]]:
    """Let every model say `text`; returns the list that fills with what was silenced."""
    silenced: list[frozenset[str]] = []

    def say(task, model, processor, records, root, cfg, silence=frozenset()):
        silenced.append(silence)
        return [text] * len(records)

    monkeypatch.setattr("evaluation.run.complete", say)
    return silenced


def test_answers_do_not_depend_on_the_batch(tiny, studio, studio_data):
    _, model, processor = tiny
    records = studio_data.split("test")[:5]
    by_size = [complete(studio, model, processor, records, studio_data.root, replace(CFG, batch=n)) for n in (1, 2, 5)]
    assert by_size[0] == by_size[1] == by_size[2]
    assert len(set(by_size[0])) > 1, "answers that are all the same would prove nothing"


def test_media_are_encoded_batch_by_batch(tiny, studio, studio_data, monkeypatch):
    _, model, processor = tiny
    sizes = []
    generate = HFEngine.generate

    def counted(self, prompts, *rest):
        sizes.append(len(prompts))
        return generate(self, prompts, *rest)

    monkeypatch.setattr(HFEngine, "generate", counted)
    records = studio_data.split("test")[:5]
    complete(studio, model, processor, records, studio_data.root, replace(CFG, batch=2, max_new_tokens=1))
    assert sizes == [2, 2, 1]


def test_a_silenced_modality_changes_what_is_said(tiny, studio, studio_data):
    _, model, processor = tiny
    records = studio_data.split("test")[:4]

    def said(*silence: str) -> list[str]:
        cfg = replace(CFG, max_new_tokens=12)
        return complete(studio, model, processor, records, studio_data.root, cfg, frozenset(silence))

    whole = said()
    assert said() == whole
    for modality in ("audio", "video", "text"):
        assert said(modality) != whole, modality


def test_evaluation_writes_every_prediction_and_silences_what_is_shown(studio, studio_data, tmp_path, monkeypatch):
    text = studio_data.split("test")[0].target.render()
    answer = f"<discriminate>neutral: so</discriminate><calibrate>so</calibrate><answer>{text}</answer>"
    silenced = answering(monkeypatch, answer)
    result = evaluate(studio, None, PROCESSOR, studio_data, CFG, tmp_path, seed=0)  # type: ignore[arg-type]
    assert silenced == [frozenset(), {"audio"}, {"video"}, {"text"}]
    assert result["n"] == 8 and set(result["silenced"]) == {"audio", "video", "text"}
    points = {name: m["value"] for name, m in result["metrics"].items()}
    assert result["silenced"]["audio"] == points and set(result["baseline"]) == set(points)
    found = measure(studio, None, PROCESSOR, studio_data.split("test"), studio_data.root, CFG)  # type: ignore[arg-type]
    assert found == points | {"calibrate": pytest.approx(result["parts"]["calibrate"]["mean"])}
    rows = read_jsonl(tmp_path / "predictions.jsonl")
    assert [row["uid"] for row in rows] == [r.uid for r in studio_data.split("test")]
    first = rows[0]
    assert first["answer"] == first["gold"] == text and first["completion"] == answer and first["fault"] is None
    assert first["verdict"] == "neutral" and set(first["parts"]) == set(PARTS) and first["parts"]["calibrate"] == 1.0
    assert {m["kind"] for m in first["media"]} == {"audio", "video"} and first["text"]


def test_an_answer_that_is_none_is_a_named_fault(studio, studio_data, tmp_path, monkeypatch):
    answering(monkeypatch, "no idea")
    result = evaluate(studio, None, PROCESSOR, studio_data, replace(CFG, silence=[]), tmp_path, seed=0)  # type: ignore[arg-type]
    assert result["silenced"] == {} and result["metrics"]["unparseable"]["value"] == 1.0
    row = read_jsonl(tmp_path / "predictions.jsonl")[0]
    assert row["answer"] is None and row["verdict"] is None and row["fault"] and row["parts"]["format"] == 0.0


def test_only_modalities_that_the_prompts_show_are_silenced(studio, studio_data, tmp_path, monkeypatch):
    def text_only(record: Record) -> Record:
        return replace(record, views={"text": record.views["text"]})

    data = Dataset(tuple(text_only(r) for r in studio_data.records), studio_data.root)
    silenced = answering(monkeypatch, "no idea")
    result = evaluate(studio, None, PROCESSOR, data, CFG, tmp_path, seed=0)  # type: ignore[arg-type]
    assert silenced == [frozenset(), {"text"}] and list(result["silenced"]) == ["text"]


def test_split_and_limit_choose_the_records(studio, studio_data, tmp_path, monkeypatch):
    answering(monkeypatch, "no idea")
    cfg = replace(CFG, split="dev", limit=3, silence=[])
    assert evaluate(studio, None, PROCESSOR, studio_data, cfg, tmp_path, seed=0)["n"] == 3  # type: ignore[arg-type]
    rows = read_jsonl(Path(tmp_path, "predictions.jsonl"))
    assert [row["uid"] for row in rows] == [r.uid for r in studio_data.split("dev")[:3]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "tset"}, r"eval\.split: one of .*; got 'tset'; mend the config"),
        ({"silence": ["sound"]}, r"eval\.silence: members of .*; got \['sound'\]; mend the config"),
        ({"batch": 0}, r"eval: batch and max_new_tokens 1 or more, .*; got batch=0 .*; mend the config"),
        ({"max_new_tokens": 0}, r"got batch=8 max_new_tokens=0"),
        ({"temperature": -1.0}, r"temperature=-1"),
        ({"limit": 0}, r"eval\.limit: 1 or more, or null for all; got 0; mend the config"),
        ({"resamples": 0}, r"eval\.resamples: 1 or more; got 0; mend the config"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(CFG, **change)
