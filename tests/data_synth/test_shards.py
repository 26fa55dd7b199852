"""Several workers on one set, merged, are one worker: same files, same result, same cut and same choice."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from commands import arguments, chains_and_rejected, corpus, proxy, synthesis
from hypothesis import given
from hypothesis import strategies as st
from verbs import call

from data_synth.merge import find_shards, merge
from data_synth.run import asking_order, own_places, synthesize
from data_synth.teacher import Draft, Teacher
from runtime.errors import StageError
from runtime.files import write_json
from tasks.base import Dataset
from tasks.record import Record, read_records
from tasks.target import Scalar


class Sayings(Teacher):
    """Says one of a few things, right for two records in three, and asks for each in its own time."""

    name = "sayings"
    concurrency = 3

    def settings(self):
        return {}

    async def write(self, case, indices):
        number = int(str(case.views["text"]).split()[-1])
        side, x = ("positive", "2.0") if number % 3 else ("negative", "-2.0")
        cue = ("a warm word and a smile", "the voice goes up", "a broad smile, it seems")[number % 5 % 3]
        return [Draft(f"<discriminate>{side}: {cue}</discriminate><calibrate>no doubt</calibrate><answer>{x}</answer>")]


@pytest.fixture
def data(remark, tmp_path) -> Dataset:
    return Dataset(
        tuple(remark(uid=f"r-{i}", text=f"number {i}", x=2.0 if i % 7 else -2.0) for i in range(60)), tmp_path
    )


@pytest.mark.parametrize("parts", [1, 2, 5])
@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"near_duplicate": 0.9},
        {"balance": "coarse", "limit": 10},
        {"balance": "difficulty", "limit": 2, "near_duplicate": 0.8},
    ],
    ids=str,
)
def test_merged_shards_are_the_undivided_run(remarks, data, settings, tmp_path, parts, choice):
    wanted = replace(settings, **choice)
    whole = synthesize(remarks, data, Sayings(), wanted, tmp_path / "whole")
    shards, results = [], []
    for part in range(parts):
        shards.append(tmp_path / "run" / f"shard-{part}-of-{parts}")
        results.append(synthesize(remarks, data, Sayings(), replace(wanted, shard=f"{part}/{parts}"), shards[-1]))
    assert merge(shards, results, wanted, tmp_path / "run") == whole
    for name in ("chains.jsonl", "rejected.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sum(result["asked"] for result in results) == 60


def test_a_limit_without_balance_is_applied_by_the_merge(remarks, data, settings, tmp_path):
    few = replace(settings, limit=9)
    whole = synthesize(remarks, data, replace_concurrency(Sayings(), 1), few, tmp_path / "whole")
    shards = [tmp_path / "run" / f"shard-{part}-of-2" for part in range(2)]
    results = [
        synthesize(remarks, data, Sayings(), replace(settings, shard=f"{part}/2"), shard)
        for part, shard in enumerate(shards)
    ]
    merged = merge(shards, results, few, tmp_path / "run")
    assert merged | {"requests": 60} == whole | {"requests": 60} and merged["accepted"] == 9
    assert (tmp_path / "run" / "chains.jsonl").read_bytes() == (tmp_path / "whole" / "chains.jsonl").read_bytes()


def replace_concurrency(teacher: Teacher, concurrency: int) -> Teacher:
    teacher.concurrency = concurrency
    return teacher


@given(st.integers(1, 7), st.integers(0, 40), st.integers(0, 5))
def test_every_record_belongs_to_one_shard_and_keeps_its_place(parts, count, seed):
    records = tuple(
        Record(uid=f"u{i}", task="t", split="train", group=f"g{i}", views={"text": "x"}, target=Scalar(0, -3, 3))
        for i in range(count)
    )
    data = Dataset(records, Path("."))
    order = asking_order(data, seed)
    places = [list(own_places(data, order, (part, parts))) for part in range(parts)]
    assert sorted(place for some in places for place in some) == list(range(count))
    assert all(some == sorted(some) for some in places)


def finished_shard(folder: Path, name: str) -> None:
    write_json(folder / name / "stage.json", {"made_from": {}, "result": {"stopped": None}})


@pytest.mark.parametrize(
    "there, message",
    [
        ([], r"shards of one division are merged; got \[\]; run `python -m data_synth synth.shard=i/n` for every i"),
        (
            ["shard-0-of-2", "shard-1-of-2", "shard-0-of-3"],
            "one division are merged; got .*'shard-0-of-3'.*delete those",
        ),
        (["shard-0-of-3", "shard-2-of-3"], "shard 1 of 3 is not finished; run `python -m data_synth synth.shard=1/3`"),
    ],
)
def test_a_division_that_is_not_whole_is_refused(tmp_path, there, message):
    for name in there:
        finished_shard(tmp_path, name)
    with pytest.raises(StageError, match=message):
        find_shards(tmp_path)


def test_a_shard_that_was_cut_off_or_whose_budget_is_spent_is_not_finished(tmp_path):
    finished_shard(tmp_path, "shard-0-of-2")
    for state in ({"made_from": {}}, {"made_from": {}, "result": {"stopped": "budget"}}):
        write_json(tmp_path / "shard-1-of-2" / "stage.json", state)
        with pytest.raises(StageError, match="shard 1 of 2 is not finished"):
            find_shards(tmp_path)
    finished_shard(tmp_path, "shard-1-of-2")
    assert find_shards(tmp_path) == [tmp_path / "shard-0-of-2", tmp_path / "shard-1-of-2"]


@pytest.mark.slow
def test_workers_of_one_run_folder_are_merged_by_the_command(cache, tmp_path):
    data, run, whole = corpus(tmp_path / "mosi", 40), tmp_path / "run", tmp_path / "whole"
    with proxy(tmp_path / "requests.jsonl", "--rate", "0") as server:
        synthesis("data_synth", arguments(whole, data, server.url), tmp_path)
        for part in range(3):
            synthesis("data_synth", arguments(run, data, server.url, f"synth.shard={part}/3"), tmp_path)
        # 40 are asked for by both, and nothing by the merge
        refused = call(
            "data_synth.merge", arguments(run, data, server.url, "teacher.temperature=0"), tmp_path / "log", {}
        )
        assert refused.code == 1 and "settings.teacher.temperature: was 0.7, now 0" in refused.text
        synthesis("data_synth.merge", arguments(run, data, server.url), tmp_path)
        assert len(server.requests()) == 80
        assert "skipped" in synthesis("data_synth", arguments(run, data, server.url), tmp_path).text
    assert chains_and_rejected(run) == chains_and_rejected(whole)
    stages = [json.loads((folder / "synth" / "stage.json").read_text()) for folder in (run, whole)]
    for stage in stages:
        del stage["result"]["seconds"]
    assert (
        stages[0] == stages[1] and len(read_records(run / "synth" / "chains.jsonl")) == stages[0]["result"]["accepted"]
    )
