"""The run: same input, same files; a killed run continues; bad media are quarantined; the configs are complete."""

import asyncio
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from data_synth.config import SynthConfig
from data_synth.cue import CueTeacher
from data_synth.run import Journal, synthesize
from data_synth.teacher import Case, Draft, Teacher
from runtime.config import section
from runtime.errors import ConfigError, StageError
from tasks.base import Dataset
from tasks.record import Media, read_records

CONF = Path(__file__).parents[2] / "conf"


class Lexicon(Teacher):
    """Answers by the first letter of the text, after a random while; counts, and can fail."""

    name = "lexicon"

    def __init__(self, concurrency=1, fail_at=None):
        self.concurrency, self.fail_at, self.calls, self.flying, self.most = concurrency, fail_at, 0, 0, 0

    def settings(self):
        return {"temperature": 0.5}

    async def write(self, case: Case) -> Draft:
        self.calls += 1
        if self.calls == self.fail_at:
            raise StageError("the server is gone")
        self.flying += 1
        self.most = max(self.most, self.flying)
        await asyncio.sleep(random.random() / 200)
        self.flying -= 1
        side, x = ("positive", "2.0") if str(case.views["text"]).startswith("good") else ("negative", "-2.0")
        body = f"<discriminate>{side}: one clear word</discriminate><calibrate>no doubt</calibrate><answer>{x}</answer>"
        return Draft(body, None, {"length": len(body)})


@pytest.fixture
def data(remark, tmp_path):
    """Twenty remarks, of which every fourth is labelled against its word, and one of another split."""
    rows = []
    for i in range(20):
        good = i % 2 == 0
        x = (2.0 if good else -2.0) * (-1 if i % 4 == 3 else 1)
        rows.append(remark(uid=f"r-{i}", text=f"{'good' if good else 'bad'} number {i}", x=x, meta={"row": i}))
    rows.append(remark(uid="r-test", split="test"))
    return Dataset(tuple(rows), tmp_path)


def files(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "chains.jsonl").read_bytes(), (folder / "rejected.jsonl").read_bytes()


def test_accepted_and_rejected_are_written_with_reason_and_provenance(remarks, data, settings, tmp_path):
    result = synthesize(remarks, data, Lexicon(), settings, tmp_path / "run")
    # odd rows are negative; of them 3, 7, 11, 15, 19 are labelled positive
    assert result == {
        "asked": 20,
        "accepted": 15,
        "rejected": {"wrong verdict": 5},
        "by_coarse": {"negative": {"asked": 5, "accepted": 5}, "positive": {"asked": 15, "accepted": 10}},
    }
    chains = read_records(tmp_path / "run" / "chains.jsonl")
    assert len(chains) == 15 and all(c.split == "train" and c.rationale for c in chains)
    given = {r.uid: r for r in data.records}
    for chain in chains:
        synth = chain.meta["synth"]
        assert replace(chain, rationale=None, meta={"row": chain.meta["row"]}) == given[chain.uid]
        assert synth["teacher"] == "lexicon" and synth["settings"] == {"temperature": 0.5}
        assert synth["parts"]["discriminate"] == 1 and len(synth["prompt_hash"]) == len(synth["record_hash"]) == 16
        assert synth["draft"] == {"length": len(chain.rationale or "")}
    rejected = [json.loads(line) for line in (tmp_path / "run" / "rejected.jsonl").read_text().splitlines()]
    assert {r["uid"] for r in rejected} == {"r-3", "r-7", "r-11", "r-15", "r-19"}
    assert all(r["reason"] == "wrong verdict" and r["text"] for r in rejected)


def test_a_limit_stops_early_at_the_same_records(remarks, data, settings, tmp_path):
    teacher = Lexicon()
    result = synthesize(remarks, data, teacher, replace(settings, limit=4), tmp_path / "few")
    synthesize(remarks, data, Lexicon(), settings, tmp_path / "all")
    assert result["accepted"] == 4 and result["asked"] == teacher.calls < 20
    assert (tmp_path / "all" / "chains.jsonl").read_text().startswith((tmp_path / "few" / "chains.jsonl").read_text())


def test_the_order_follows_the_seed(remarks, data, settings, tmp_path):
    def first(seed, name):
        synthesize(remarks, data, Lexicon(), replace(settings, seed=seed), tmp_path / name)
        return [c.uid for c in read_records(tmp_path / name / "chains.jsonl")]

    assert first(1, "a") == first(1, "b") != first(2, "c")


def test_concurrency_is_bounded_and_changes_no_file(remarks, data, settings, tmp_path):
    fast = Lexicon(concurrency=6)
    few = replace(settings, limit=7)
    synthesize(remarks, data, fast, few, tmp_path / "fast")
    synthesize(remarks, data, Lexicon(), few, tmp_path / "slow")
    assert 1 < fast.most <= 6 and files(tmp_path / "fast") == files(tmp_path / "slow")


def test_a_run_that_broke_off_continues_and_ends_the_same(remarks, data, settings, tmp_path):
    with pytest.raises(StageError, match="the server is gone"):
        synthesize(remarks, data, Lexicon(fail_at=12), settings, tmp_path / "broken")
    assert not (tmp_path / "broken" / "chains.jsonl").exists()
    again = Lexicon()
    assert synthesize(remarks, data, again, settings, tmp_path / "broken")["asked"] == 20 and again.calls == 20 - 11
    synthesize(remarks, data, Lexicon(), settings, tmp_path / "whole")
    assert files(tmp_path / "broken") == files(tmp_path / "whole")


@pytest.mark.parametrize("cut", [1, 7, 40, 200])
def test_a_torn_last_line_is_asked_again(remarks, data, settings, tmp_path, cut):
    folder = tmp_path / "run"
    synthesize(remarks, data, Lexicon(), settings, folder)
    whole = files(folder)
    journal = folder / "journal.jsonl"
    content = journal.read_bytes()
    journal.write_bytes(content[:-cut])
    again = Lexicon()
    synthesize(remarks, data, again, settings, folder)
    assert again.calls == 1 and files(folder) == whole and sorted(journal.read_bytes()) == sorted(content)


def test_another_prompt_is_not_answered_from_the_journal(remarks, data, settings, tmp_path):
    synthesize(remarks, data, Lexicon(), settings, tmp_path)
    other = Lexicon()
    other.settings = lambda: {"temperature": 0.9}
    synthesize(remarks, data, other, settings, tmp_path)
    assert other.calls == 20


def test_the_journal_gives_back_what_it_was_given(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    drafts = [Draft("two\nlines\u2028and a separator", None, {"a": 1}), Draft(None, "no idea")]
    for i, draft in enumerate(drafts):
        journal.add(f"u{i}", "hash", draft)
    journal.close()
    again = Journal(tmp_path / "journal.jsonl")
    assert [again.find(f"u{i}", "hash") for i in range(2)] == drafts and again.find("u0", "other") is None
    again.close()


def test_unreadable_media_are_quarantined_with_the_reason_and_counted(remarks, remark, settings, tmp_path):
    (tmp_path / "corrupt.wav").write_bytes(b"RIFF nothing of the kind")
    views = {"gone": "gone.wav", "corrupt": "corrupt.wav", "escaped": "../x.wav"}
    rows = [remark(uid=u, views={"audio": Media("audio", p)}) for u, p in views.items()]
    data = Dataset((*rows, remark(uid="fine", text="a lovely day", x=1.8)), tmp_path)
    result = synthesize(remarks, data, CueTeacher(edge=0.5), settings, tmp_path / "run")
    assert result["accepted"] == 1 and result["rejected"] == {"unreadable media": 3}
    rejected = [json.loads(line) for line in (tmp_path / "run" / "rejected.jsonl").read_text().splitlines()]
    reasons = {r["uid"]: r["reason"] for r in rejected}
    assert "cannot be read" in reasons["gone"] and "mend the record's path" in reasons["gone"]
    assert "not a readable media file" in reasons["corrupt"] and "outside the data root" in reasons["escaped"]
    assert "corrupt" not in (tmp_path / "run" / "journal.jsonl").read_text()  # asked again once it is mended


def test_the_default_settings_are_complete_and_in_range():
    cfg = OmegaConf.create({"seed": 3, "synth": OmegaConf.load(CONF / "synth" / "default.yaml")})
    settings = section(cfg, "synth", SynthConfig)
    assert settings.seed == 3 and settings.limit == 200 and "ground truth" in settings.leak_phrases


@pytest.mark.parametrize(
    "change, message",
    [
        ({"seed": -1}, "synth.seed: 0 or more; got -1"),
        ({"limit": 0}, "synth.limit: 1 or more, or null for all; got 0"),
        ({"min_calibrate": 1.5}, r"synth.min_calibrate: a closeness in \[0, 1\]; got 1.5"),
        ({"min_words": -2}, "synth.min_words: 0 or more; got -2"),
        ({"max_words": 1}, "synth.max_words: not below min_words; got 1"),
        ({"copy_words": 0}, "synth.copy_words: 1 or more, or null; got 0"),
        ({"leak_phrases": [" "]}, "synth.leak_phrases: non-empty phrases"),
    ],
)
def test_settings_out_of_range_are_named(settings, change, message):
    with pytest.raises(ConfigError, match=message):
        replace(settings, **change)


@pytest.mark.parametrize("name, needs", [("cue", []), ("openai", ["teacher.model=m"]), ("qwen3_omni_30b", [])])
def test_every_teacher_config_makes_its_teacher(monkeypatch, name, needs):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    with initialize_config_dir(str(CONF), version_base=None):
        cfg = compose(f"teacher/{name}", overrides=["+seed=1", *needs])
    assert isinstance(instantiate(cfg.teacher), Teacher)
