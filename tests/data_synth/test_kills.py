"""Nothing is lost and nothing is paid for twice: kills at random moments, a server that breaks down, and both by its own log."""

import json
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
from commands import TEXT, arguments, chains_and_rejected, corpus, journaled, proxy, synthesis
from verbs import finish, start

from runtime.files import read_jsonl
from tasks.record import read_records

pytestmark = pytest.mark.slow

KILLS = 20
CONCURRENCY = 4


def text_of(request: dict) -> str:
    """Which record a request is about."""
    return TEXT + request["words"].partition(TEXT)[2].partition("\n")[0]


def test_twenty_kills_at_random_moments_change_no_file_and_repeat_nothing_that_was_kept(cache, tmp_path):
    draw, protocol = (
        random.Random(0),
        ("synth.candidates=2", "synth.rewrite=true", f"teacher.concurrency={CONCURRENCY}"),
    )
    data = corpus(tmp_path / "mosi", 400)
    with proxy(tmp_path / "requests.jsonl", "--rate", "0.1", "--faults", "500,429,cut,garbage,schema") as server:
        args = arguments(tmp_path / "run", data, server.url, *protocol)
        kept, asked_before = [], []
        for kill in range(KILLS):
            last = max(server.count(), 1) + draw.randrange(1, 30)  # ten of them are the probe's
            log = tmp_path / "log"
            running = start("data_synth", args, log, {})
            outcome = finish(running, log, kill_when=lambda last=last: server.count() >= last)
            assert outcome.code == -9, f"kill {kill} came too late: {outcome.text}"
            # a copy, because to look at a journal puts it in order
            shutil.copytree(tmp_path / "run" / "synth", tmp_path / "copy", dirs_exist_ok=True)
            kept.append(journaled(tmp_path / "copy"))
            asked_before.append(len(server.requests()))
            shutil.rmtree(tmp_path / "copy")
        synthesis("data_synth", args, tmp_path)
        asked = server.requests()
    answered = [row for row in asked if row["did"] == "answer"]
    texts = {
        record.uid: str(record.views["text"]) for record in read_records(tmp_path / "run" / "data" / "records.jsonl")
    }
    step_of = {}
    for row in asked:  # two candidates are one request
        one = "conclude" if "<explanation>" in row["words"] else "rewrite"
        step_of[row["request"]] = "write" if row["n"] == 2 else one
    for journal, before in zip(kept, asked_before, strict=True):
        later = {(text_of(row), step_of[row["request"]]) for row in asked[before:]}
        assert not later & {(texts[uid], step) for uid, step in journal}
    sizes = [sum(journal.values()) for journal in kept]
    assert sizes == sorted(sizes) and len(set(sizes)) > KILLS / 2, "the kills hit a run that got on"
    # what was in flight at a kill is asked again, and nothing else
    assert len(answered) - len({row["request"] for row in answered}) <= KILLS * CONCURRENCY
    with proxy(tmp_path / "undisturbed.jsonl", "--rate", "0") as server:
        args = arguments(tmp_path / "whole", data, server.url, *protocol)
        synthesis("data_synth", args, tmp_path)
        assert {row["request"] for row in server.requests()} == {row["request"] for row in answered}
    assert chains_and_rejected(tmp_path / "run") == chains_and_rejected(tmp_path / "whole")


def test_of_two_thousand_records_a_server_that_fails_three_times_in_ten_loses_and_doubles_none(cache, tmp_path):
    data = corpus(tmp_path / "mosi", 2000)
    with proxy(tmp_path / "requests.jsonl", "--rate", "0.3", "--seed", "1") as server:
        args = arguments(tmp_path / "run", data, server.url, "teacher.timeout=5", "teacher.retries=10")
        synthesis("data_synth", args, tmp_path)
        asked = server.requests()
    synth = tmp_path / "run" / "synth"
    faults = Counter(row["did"] for row in asked)
    assert set(faults) == {"answer", "500", "429", "timeout", "cut", "garbage", "schema", "drip"}
    assert 0.25 < 1 - faults["answer"] / len(asked) < 0.35
    # nothing lost: every record has its draft, and is in one file, once
    chains, rejected = read_jsonl(synth / "chains.jsonl"), read_jsonl(synth / "rejected.jsonl")
    uids = [row["uid"] for row in chains + rejected]
    assert len(uids) == len(set(uids)) == 2000 and journaled(synth) == dict.fromkeys(((u, "write") for u in uids), 1)
    # nothing doubled: an answer that arrived whole was never asked for again
    assert max(Counter(row["request"] for row in asked if row["did"] == "answer").values()) == 1
    assert len({row["request"] for row in asked}) == 2000
    result = json.loads((synth / "stage.json").read_text())["result"]
    assert (result["asked"], result["accepted"], result["requests"]) == (2000, len(chains), 2000)
    assert result["rejected"] == {"wrong verdict": len(rejected)}
    # the server is right about nine in ten: the standard error over 2000 is .0067
    assert abs(len(chains) / 2000 - 0.9) < 4 * 0.0067


def test_a_spent_budget_ends_the_command_and_the_same_command_with_a_larger_one_goes_on(cache, tmp_path):
    data = corpus(tmp_path / "mosi", 60)

    def command(run: Path, budget: str) -> tuple[dict, str]:
        said = synthesis(
            "data_synth", arguments(run, data, server.url, f"teacher.budget.max_requests={budget}"), tmp_path
        )
        return json.loads((run / "synth" / "stage.json").read_text())["result"], said.text

    with proxy(tmp_path / "requests.jsonl", "--rate", "0") as server:
        result, said = command(tmp_path / "run", "40")
        assert result["stopped"] == "budget" and 0 < result["asked"] < 40  # the probe has asked, too
        assert f"the budget is spent: {result['accepted']} chains of {result['asked']} records so far" in said
        assert len(read_records(tmp_path / "run" / "synth" / "chains.jsonl")) == result["accepted"]
        whole, said = command(tmp_path / "run", "null")
        assert (whole["stopped"], whole["asked"]) == (None, 60) and "was cut off, goes on" in said
        assert max(Counter(row["request"] for row in server.requests()).values()) == 1
        _, said = command(tmp_path / "run", "null")
        assert "done before, skipped" in said
        command(tmp_path / "whole", "null")
    assert chains_and_rejected(tmp_path / "run") == chains_and_rejected(tmp_path / "whole")


def test_other_rules_are_applied_to_what_is_in_the_journal_and_another_teacher_is_another_generation(cache, tmp_path):
    data = corpus(tmp_path / "mosi", 30)
    run = tmp_path / "run"
    with proxy(tmp_path / "requests.jsonl", "--rate", "0") as server:
        synthesis("data_synth", arguments(run, data, server.url), tmp_path)
        first = chains_and_rejected(run)
        assert len(server.requests()) == 30
        said = synthesis("data_synth", arguments(run, data, server.url, "synth.min_words=9"), tmp_path).text
        assert "made with other settings (settings.synth.min_words), done anew" in said
        assert len(server.requests()) == 30 and b"too short" in chains_and_rejected(run)[1]
        said = synthesis("data_synth", arguments(run, data, server.url, "teacher.temperature=0.1"), tmp_path).text
        assert "settings.teacher.temperature" in said and len(server.requests()) == 60
        synthesis("data_synth", arguments(run, data, server.url), tmp_path)  # the old generation is still there
    assert len(server.requests()) == 60 and chains_and_rejected(run) == first
