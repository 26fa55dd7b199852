"""`python -m sft` inside a run: which chains are learnt, and what is held out."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from models.load import ModelConfig, base_checkpoint
from models.session import RunConfig, Session
from runtime.errors import StageError
from runtime.files import read_jsonl, write_json
from runtime.manifest import write_manifest
from sft import stage
from sft.config import SFTConfig
from tasks.record import Record, write_records
from tasks.studio.task import caption

RUN = RunConfig("run", "", 0, 0.0, [], "undertone", [], 10, 16)


@pytest.fixture
def session(tiny: tuple[ModelConfig, object, object], settings, studio, studio_data, tmp_path: Path):
    """Makes a session over the studio whose stage is a single step."""

    def make(**changes) -> Session:
        values: SFTConfig = settings(max_steps=1, eval_every=1, **changes)
        cfg = OmegaConf.create({"task": {"name": "studio"}, "sft": asdict(values), "cluster": {"deepspeed": None}})
        write_manifest(tmp_path, {}, seed=0, parent=None, inputs={})
        return Session(cfg, replace(RUN, dir=str(tmp_path)), tmp_path, 0, studio, studio_data, tiny[0])

    return make


@pytest.fixture
def chains(studio_data) -> list[Record]:
    """Five records with a chain, and one without."""
    records = studio_data.split("train")[:6]
    return [replace(r, rationale=f"<answer>{caption(r)}</answer>") for r in records[:5]] + [records[5]]


def test_the_last_chains_are_held_out_and_records_without_a_chain_are_passed_over(
    session, chains, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, list[str]] = {}

    def look(name, model, processor, examples, held, cfg, folder, seed, cluster, tracker) -> dict:
        write_json(folder / "final" / "config.json", {})
        given.update(train=[e.answer for e in examples], held=[e.answer for e in held])
        return {}

    monkeypatch.setattr(stage, "train", look)
    write_records(tmp_path / "synth" / "chains.jsonl", chains)
    stage.run(session(holdout=0.4))
    answers = [r.rationale for r in chains[:5]]
    assert given == {"train": answers[:3], "held": answers[3:]}  # 0.4 x 5 = 2


def test_a_run_trains_on_its_chains_measures_what_is_held_out_and_is_not_repeated(
    session, chains, tmp_path: Path
) -> None:
    write_records(tmp_path / "synth" / "chains.jsonl", chains)
    result = stage.run(session(holdout=0.4))
    assert result["examples"] == 3 and result["steps"] == 1 and result["eval_loss"] > 0
    assert (tmp_path / "sft" / "final" / "model.safetensors").is_file()
    rows = read_jsonl(tmp_path / "sft" / "metrics.jsonl")
    assert [row["step"] for row in rows if "eval_loss" in row] == [1]
    assert stage.run(session(holdout=0.4)) == result
    with pytest.raises(StageError, match=r"settings\.sft\.holdout: was 0\.4, now 0\.0"):
        stage.run(session())


def test_training_starts_from_init_when_there_is_one(session, chains, tmp_path: Path, tiny, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(stage, "load_model", lambda cfg, checkpoint, train: seen.append(checkpoint))
    monkeypatch.setattr(stage, "train", lambda *rest: write_json(rest[6] / "final" / "config.json", {}) or {})
    write_records(tmp_path / "other.jsonl", chains)
    base = base_checkpoint(tiny[0])
    stage.run(session(init=str(base), chains=str(tmp_path / "other.jsonl")))
    assert seen == [base]


def test_without_chains_the_remedy_is_named(session) -> None:
    said = r"sft: there are no chains at .*chains\.jsonl; run `python -m data_synth` with the same settings first, or name a file "
    with pytest.raises(StageError, match=said):
        stage.run(session())


def test_chains_without_a_single_answer_are_nothing_to_train_on(session, chains, tmp_path: Path) -> None:
    write_records(tmp_path / "synth" / "chains.jsonl", chains[5:])
    with pytest.raises(StageError, match="sft: no example to train on; look at the rejections of data_synth"):
        stage.run(session())
