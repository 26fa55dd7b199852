"""The journal: what `add` has returned for survives a kill, is found again, and is never mixed with another generation."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from data_synth.journal import Journal
from data_synth.teacher import Draft
from models.budget import Spent
from runtime.errors import StageError

ROOT = Path(__file__).parents[2]


def used(prompt: int, completion: int) -> Draft:
    return Draft("x", None, {"usage": {"prompt_tokens": prompt, "completion_tokens": completion}})


def test_the_journal_gives_back_what_it_was_given(tmp_path):
    drafts = {0: Draft("two\nlines\u2028and a separator", None, {"a": [1, "ä"]}), 2: Draft(None, "no idea")}
    with Journal(tmp_path / "run" / "journal.db") as journal:
        asyncio.run(journal.add("u", "g", "write", drafts))
        assert asyncio.run(journal.find("u", "g", "write")) == drafts
    with Journal(tmp_path / "run" / "journal.db") as journal:
        assert asyncio.run(journal.find("u", "g", "write")) == drafts
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["journal.db"]  # one file, once it is closed


@pytest.mark.parametrize("key", [("v", "g", "write"), ("u", "h", "write"), ("u", "g", "rewrite")])
def test_another_record_generation_or_step_finds_nothing_and_the_old_one_stays(tmp_path, key):
    with Journal(tmp_path / "journal.db") as journal:
        asyncio.run(journal.add("u", "g", "write", {0: Draft("old")}))
        assert asyncio.run(journal.find(*key)) == {}
        asyncio.run(journal.add(*key, {0: Draft("new")}))
        assert asyncio.run(journal.find(*key)) == {0: Draft("new")}
        assert asyncio.run(journal.find("u", "g", "write")) == {0: Draft("old")}


def test_what_was_spent_is_the_sum_over_all_generations_and_a_request_counts_once(tmp_path):
    with Journal(tmp_path / "journal.db") as journal:
        assert journal.spent() == Spent(0, 0, 0)
        asyncio.run(journal.add("u", "g", "write", {0: used(70, 30), 1: used(0, 20)}))  # two drafts of one request
        asyncio.run(journal.add("u", "h", "write", {0: used(70, 40)}))
        asyncio.run(journal.add("v", "g", "write", {0: Draft(None, "teacher refused", {"usage": None})}))
        assert journal.spent() == Spent(3, 70 + 70, 30 + 20 + 40)


def test_a_draft_is_never_overwritten(tmp_path):
    journal = Journal(tmp_path / "journal.db")
    asyncio.run(journal.add("u", "g", "write", {0: Draft("first")}))
    with pytest.raises(Exception, match="UNIQUE constraint failed"):
        asyncio.run(journal.add("u", "g", "write", {0: Draft("second")}))
    with journal:
        assert asyncio.run(journal.find("u", "g", "write")) == {0: Draft("first")}


def test_many_at_once_are_all_kept(tmp_path):
    async def all_at_once(journal):
        await asyncio.gather(*(journal.add(f"u{i}", "g", "write", {0: Draft(str(i))}) for i in range(300)))
        return [await journal.find(f"u{i}", "g", "write") for i in range(300)]

    with Journal(tmp_path / "journal.db") as journal:
        assert asyncio.run(all_at_once(journal)) == [{0: Draft(str(i))} for i in range(300)]


def test_a_reply_whose_task_is_cancelled_while_it_is_written_is_kept(tmp_path):
    async def cancelled(journal):
        task = asyncio.create_task(journal.add("u", "g", "write", {0: Draft("paid")}))
        await asyncio.sleep(0)  # it has begun
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    with Journal(tmp_path / "journal.db") as journal:
        asyncio.run(cancelled(journal))
    with Journal(tmp_path / "journal.db") as journal:
        assert asyncio.run(journal.find("u", "g", "write")) == {0: Draft("paid")}


WRITER = """
import asyncio, sys
from pathlib import Path
from data_synth.journal import Journal
from data_synth.teacher import Draft

async def forever(journal):
    for i in range(10**6):
        await journal.add(f"u{i}", "g", "write", {0: Draft("x" * 500)})
        print(i, flush=True)

asyncio.run(forever(Journal(Path(sys.argv[1]))))
"""


def test_after_a_kill_everything_that_was_confirmed_is_there(tmp_path):
    path, confirmed = tmp_path / "journal.db", 0
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER.replace("range(10**6)", f"range({confirmed}, 10**6)"), str(path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        for _ in range(40):
            confirmed = int(writer.stdout.readline()) + 1
        writer.kill()
        confirmed = max([confirmed, *(int(line) + 1 for line in writer.stdout.read().split("\n")[:-1])])
        writer.stdout.close()
        writer.wait()
        with Journal(path) as journal:
            found = [asyncio.run(journal.find(f"u{i}", "g", "write")) for i in range(confirmed + 2)]
        assert (
            found[:confirmed] == [{0: Draft("x" * 500)}] * confirmed
        )  # and perhaps the one that was not confirmed yet
        confirmed += sum(1 for drafts in found[confirmed:] if drafts)
    assert confirmed >= 120


def test_two_processes_cannot_pay_for_the_same_drafts(tmp_path):
    other = [sys.executable, "-c", WRITER, str(tmp_path / "journal.db")]
    with Journal(tmp_path / "journal.db") as journal:
        asyncio.run(journal.add("u", "g", "write", {0: Draft("mine")}))
        done = subprocess.run(other, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "journal.db: cannot be opened (database is locked); if another process is at work" in done.stderr


def test_the_journal_of_a_former_version_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "journal.jsonl").write_text("{}\n")
    with pytest.raises(
        StageError, match=r"journal\.jsonl: drafts in the format of a former version.*choose another run"
    ):
        Journal(tmp_path / "journal.db")
    assert not (tmp_path / "journal.db").exists()
