"""The run: same input, same files; a killed run continues; bad media are quarantined; the configs are complete."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tqdm import tqdm

from data_synth.config import SynthConfig
from data_synth.cue import CueTeacher
from data_synth.run import synthesize
from data_synth.teacher import Case, Draft, Teacher
from models.budget import Budget, Limits, Spent
from runtime.config import section
from runtime.errors import ConfigError, StageError
from runtime.files import read_jsonl
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

    async def write(self, case: Case, indices: Sequence[int]) -> list[Draft]:
        self.calls += 1
        if self.calls == self.fail_at:
            raise StageError("the server is gone")
        self.flying += 1
        self.most = max(self.most, self.flying)
        await asyncio.sleep(random.random() / 200)
        self.flying -= 1
        side, x = ("positive", "2.0") if str(case.views["text"]).startswith("good") else ("negative", "-2.0")
        body = f"<discriminate>{side}: one clear word</discriminate><calibrate>no doubt</calibrate><answer>{x}</answer>"
        return [Draft(body, None, {"length": len(body)}) for _ in indices]


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
        "requests": 20,
        "tokens": 0,
        "cost": None,
        "stopped": None,
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
        assert (synth["step"], synth["index"], synth["pass_rate"]) == ("write", 0, 1)
    rejected = [json.loads(line) for line in (tmp_path / "run" / "rejected.jsonl").read_text().splitlines()]
    assert {r["uid"] for r in rejected} == {"r-3", "r-7", "r-11", "r-15", "r-19"}
    assert all(r["reason"] == "wrong verdict" and r["text"] for r in rejected)
    assert {(r["step"], r["index"], r["synth"]["pass_rate"]) for r in rejected} == {("write", 0, 0)}


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


class Slow(Lexicon):
    """Writes about the record that is asked first only after `others` more are written."""

    def __init__(self, concurrency, others):
        super().__init__(concurrency)
        self.others, self.enough, self.first = others, asyncio.Event(), None

    async def write(self, case, indices):
        text = str(case.views["text"])
        self.first = self.first or text
        if text == self.first:
            await self.enough.wait()
        drafts = await super().write(case, indices)
        if self.calls >= self.others:
            self.enough.set()
        return drafts


def test_a_slow_first_record_holds_up_nobody_and_changes_no_file(remarks, data, settings, tmp_path):
    slow = Slow(concurrency=3, others=19)  # a window that waited for the first would stand still at two others
    synthesize(remarks, data, slow, settings, tmp_path / "slow")
    synthesize(remarks, data, Lexicon(), settings, tmp_path / "fast")
    assert files(tmp_path / "slow") == files(tmp_path / "fast")


def test_a_limit_asks_for_no_more_than_may_be_needed(remarks, data, settings, tmp_path):
    few = replace(settings, limit=5)
    slow = Slow(concurrency=3, others=5)
    result = synthesize(remarks, data, slow, few, tmp_path / "slow")
    one_by_one = synthesize(remarks, data, Lexicon(), few, tmp_path / "fast")
    assert files(tmp_path / "slow") == files(tmp_path / "fast") and result["accepted"] == 5
    # those asked in vain are at most as many as are in flight beside the last one that is needed
    assert one_by_one["asked"] <= slow.calls <= one_by_one["asked"] + 2


def test_what_is_in_flight_when_the_teacher_fails_is_waited_for_and_kept(remarks, data, settings, tmp_path):
    class Dies(Lexicon):
        async def write(self, case, indices):
            if self.calls == 3:  # while three others are being written
                self.calls += 1
                raise StageError("the server is gone")
            return await super().write(case, indices)

    with pytest.raises(StageError, match="the server is gone"):
        synthesize(remarks, data, Dies(concurrency=4), settings, tmp_path)
    again = Lexicon()
    synthesize(remarks, data, again, settings, tmp_path)
    assert again.calls == 20 - 3


class Paid(Lexicon):
    """Each draft is a request of 7 prompt and 3 completion tokens."""

    def __init__(self, concurrency=1, **limits):
        super().__init__(concurrency)
        none = {"max_requests": None, "max_tokens": None, "max_cost": None}
        prices = {"prompt_price": 1e6, "completion_price": 2e6}
        self.budget = Budget("teacher.budget", Limits(**(none | prices | limits)))

    async def write(self, case, indices):
        assert self.budget is not None
        await self.budget.reserve(Spent(1, 7, 3))
        (draft,) = await super().write(case, indices)
        self.budget.settle(Spent(1, 7, 3), Spent(1, 7, 3))
        return [replace(draft, provenance={"usage": {"prompt_tokens": 7, "completion_tokens": 3}})]


@pytest.mark.parametrize("concurrency", [1, 6])
def test_a_spent_budget_ends_the_run_with_what_there_is_and_a_larger_one_goes_on(
    remarks, data, settings, tmp_path, concurrency
):
    first = Paid(concurrency, max_requests=8)
    result = synthesize(remarks, data, first, settings, tmp_path / "run")
    assert (result["stopped"], result["asked"], result["requests"], result["tokens"]) == ("budget", 8, 8, 80)
    assert result["cost"] == 8 * (7 * 1 + 3 * 2)
    assert len(read_records(tmp_path / "run" / "chains.jsonl")) == result["accepted"] > 0
    second = Paid(concurrency, max_requests=12)  # of all calls together
    assert synthesize(remarks, data, second, settings, tmp_path / "run")["requests"] == 12 and second.calls == 4
    third = Paid(concurrency)
    whole = synthesize(remarks, data, third, settings, tmp_path / "run")
    assert (whole["stopped"], whole["asked"], whole["tokens"], third.calls) == (None, 20, 200, 8)
    synthesize(remarks, data, Paid(), settings, tmp_path / "whole")
    assert files(tmp_path / "run") == files(tmp_path / "whole")


def test_the_progress_bar_shows_what_is_spent(remarks, data, settings, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("data_synth.run.tqdm", lambda **known: tqdm(**(known | {"disable": False})))
    synthesize(remarks, data, Paid(), settings, tmp_path)
    last = capsys.readouterr().err.rpartition("\r")[2]
    assert "synthesis (lexicon): 100%" in last and "20/20" in last
    assert "accepted=15, tokens=200, cost=260.00" in last  # 20 * (7 * 1 + 3 * 2)


def test_what_a_teacher_finds_out_about_its_server_is_in_the_run_folder(remarks, data, settings, tmp_path):
    class Curious(Lexicon):
        async def __aenter__(self):
            self.facts = {"n": True}
            return self

        def found(self):
            return self.facts

    synthesize(remarks, data, Curious(), settings, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "server.json").read_text()) == {"n": True}
    synthesize(remarks, data, Lexicon(), settings, tmp_path / "plain")
    assert not (tmp_path / "plain" / "server.json").exists()


def test_near_duplicates_are_rejected_and_do_not_count_for_the_limit(remarks, remark, settings, tmp_path):
    class Echo(Lexicon):
        async def write(self, case, indices):
            (draft,) = await super().write(case, indices)
            return [replace(draft, text=str(draft.text).replace("one clear word", str(case.views["text"])))]

    texts = [
        "good news today",
        "good news today",
        "good old friends",
        "good news today",
        "good old friends",
        "good sun",
    ]
    data = Dataset(tuple(remark(uid=f"r-{i}", text=text) for i, text in enumerate(texts)), tmp_path)
    strict = replace(settings, near_duplicate=0.9, limit=3)
    results = [
        synthesize(remarks, data, Echo(concurrency), strict, tmp_path / str(concurrency)) for concurrency in (1, 4)
    ]
    assert files(tmp_path / "1") == files(tmp_path / "4")
    chains = [record.views["text"] for record in read_records(tmp_path / "1" / "chains.jsonl")]
    assert results[0]["accepted"] == 3 and sorted(chains) == ["good news today", "good old friends", "good sun"]
    rejected = read_jsonl(tmp_path / "1" / "rejected.jsonl")
    assert results[0]["rejected"] == {"near duplicate": results[0]["asked"] - 3} and rejected
    kept = {record.uid: record.views["text"] for record in read_records(tmp_path / "1" / "chains.jsonl")}
    for row in rejected:
        assert row["step"] == "select" and kept[row["reason"].removeprefix("near duplicate: of ")] in row["text"]


def test_a_balance_takes_as_many_of_each_verdict_and_asks_about_every_record(remarks, data, settings, tmp_path):
    teacher = Lexicon()
    result = synthesize(remarks, data, teacher, replace(settings, balance="coarse", limit=8), tmp_path / "run")
    # accepted are 5 negative and 10 positive: 4 of each are taken
    assert result["by_coarse"] == {"negative": {"asked": 5, "accepted": 4}, "positive": {"asked": 15, "accepted": 4}}
    assert teacher.calls == 20 and result["rejected"] == {"balance": 7, "wrong verdict": 5}
    synthesize(remarks, data, Lexicon(), settings, tmp_path / "all")
    everything = [r.uid for r in read_records(tmp_path / "all" / "chains.jsonl")]
    chosen = [r.uid for r in read_records(tmp_path / "run" / "chains.jsonl")]
    assert chosen == [uid for uid in everything if uid in chosen]  # in the order of asking
    rows = read_jsonl(tmp_path / "run" / "rejected.jsonl")
    assert {r["reason"] for r in rows if r["step"] == "select"} == {
        "balance: enough of negative",
        "balance: enough of positive",
    }


def test_difficulty_is_balanced_by_the_share_of_candidates_that_were_right(remarks, remark, settings, tmp_path):
    class Partly(Lexicon):
        async def write(self, case, indices):
            (draft,) = await super().write(case, indices)
            right = int(str(case.views["text"]).split()[-1])  # of three
            return [draft if indices[0] < right else replace(draft, text="nothing")]

    data = Dataset(tuple(remark(uid=f"r-{i}", text=f"good {i % 3 + 1}") for i in range(12)), tmp_path)
    wanted = replace(settings, balance="difficulty", limit=6, candidates=3)
    assert synthesize(remarks, data, Partly(), wanted, tmp_path)["accepted"] == 6
    rates = Counter(r.meta["synth"]["pass_rate"] for r in read_records(tmp_path / "chains.jsonl"))
    assert rates == {1 / 3: 2, 2 / 3: 2, 1.0: 2}


def test_another_prompt_is_not_answered_from_the_journal(remarks, data, settings, tmp_path):
    synthesize(remarks, data, Lexicon(), settings, tmp_path)
    other = Lexicon()
    other.settings = lambda: {"temperature": 0.9}
    synthesize(remarks, data, other, settings, tmp_path)
    assert other.calls == 20


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
    # 0.5859 * 3 = 1.8 is what a lovely day gets; only this is in the journal, the others are asked again once mended
    assert result["requests"] == 1


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
        ({"candidates": 0}, "synth.candidates: 1 or more; got 0"),
        ({"copy_share": 1.5}, r"synth.copy_share: a share in \[0, 1\], or null; got 1.5"),
        ({"language": "English"}, "synth.language: two letters as in 'en', or null; got 'English'"),
        ({"near_duplicate": 0.5}, r"synth.near_duplicate: a similarity in \[0.7, 1\], or null; got 0.5"),
        ({"balance": "label"}, r"synth.balance: one of \('coarse', 'difficulty'\), or null; got 'label'"),
        ({"balance": "coarse"}, "synth.limit: a balance needs the number to choose; got None"),
        ({"shard": "4/4"}, "synth.shard: 'i/n' with 0 <= i < n, for example '0/4'; got '4/4'"),
        ({"shard": "first"}, "synth.shard: 'i/n' with 0 <= i < n, for example '0/4'; got 'first'"),
        ({"shard": "0/4", "limit": 9}, "synth.limit: 9 with synth.shard=0/4: no shard can know when all of them"),
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
