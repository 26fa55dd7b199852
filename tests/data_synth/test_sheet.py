"""The sample sheet: a fair draw, read in one pass, on a page that asks nobody for anything and believes nothing it shows."""

import base64
import hashlib
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from finished_run import rejection, synth, write_run
from hypothesis import given
from hypothesis import strategies as st
from verbs import call

from data_synth.output import read_output, run_folder
from data_synth.sheet import sample, share_out, write_sheet
from data_synth.sheet_page import SCRIPT
from runtime.errors import ConfigError, StageError
from runtime.files import write_jsonl
from tasks.record import Media

EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)>'
GOOD = "<discriminate>positive: a warm word</discriminate><calibrate>said plainly</calibrate><answer>1.8</answer>"


def test_everybody_is_served_alike_and_the_smallest_first():
    # 9 among three: 1 can take 1, the others share 8
    assert share_out({"b": 10, "a": 1, "c": 10}, 9) == {"a": 1, "b": 4, "c": 4}
    assert share_out({"a": 3, "b": 3}, 100) == {"a": 3, "b": 3}


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 40)), st.integers(0, 100))
def test_no_share_exceeds_what_is_there_and_nothing_is_left_over_in_vain(sizes, count):
    given_ = share_out(sizes, count)
    assert all(0 <= given_[name] <= sizes[name] for name in sizes)
    assert sum(given_.values()) == min(count, sum(sizes.values()))


@pytest.fixture
def many(remark):
    """100 accepted chains, 8 of them rewritten; rejected: 60 wrong, 3 that leak, 4 unread, 5 not selected, 2 not concluded."""
    chains = [
        replace(remark(uid=f"a-{i}"), rationale=GOOD, meta={"synth": synth("rewrite" if i < 8 else "write")})
        for i in range(100)
    ]
    rejected = [rejection(f"w-{i}", "wrong verdict", GOOD) for i in range(60)]
    rejected += [rejection(f"l-{i}", "speaks of the label: 'the label is'", GOOD) for i in range(3)]
    rejected += [rejection(f"u-{i}", "unreadable media: gone", None) for i in range(4)]
    rejected += [rejection(f"s-{i}", "not selected: candidate 1", GOOD, "select") for i in range(5)]
    rejected += [rejection(f"c-{i}", "not concluded: wrong verdict", GOOD, "conclude") for i in range(2)]
    records = [remark(uid=row["uid"]) for row in rejected] + [replace(c, rationale=None, meta={}) for c in chains]
    return records, chains, rejected


def test_half_of_the_sample_was_accepted_and_every_kind_of_rejection_has_its_share(many, tmp_path):
    folder = write_run(tmp_path, *many) / "synth"
    drafts, steps = sample(folder, 50, seed=0)
    # 25 accepted: 8 rewritten ones and 17 others; 25 rejected: all 2 and all 3 of the small kinds, and 20 wrong ones
    assert Counter(d.stratum for d in drafts) == {
        "accepted": 17,
        "accepted (rewrite)": 8,
        "wrong verdict": 20,
        "speaks of the label": 3,
        "not concluded (conclude)": 2,
    }
    assert all(d.text for d in drafts) and len({d.uid for d in drafts}) == 50
    assert steps == {
        ("write", True): 92,
        ("rewrite", True): 8,
        ("write", False): 67,
        ("select", False): 5,
        ("conclude", False): 2,
    }


def test_the_seed_decides_the_sample_and_the_order_of_the_files_does_not(many, tmp_path):
    records, chains, rejected = many
    one = sample(write_run(tmp_path / "a", records, chains, rejected) / "synth", 50, seed=0)[0]
    two = sample(write_run(tmp_path / "b", records, chains[::-1], rejected[::-1]) / "synth", 50, seed=0)[0]
    assert one == two != sample(tmp_path / "a" / "synth", 50, seed=1)[0]


def test_where_little_was_rejected_accepted_chains_fill_the_sample(many, tmp_path):
    records, chains, rejected = many
    folder = write_run(tmp_path, records, chains, rejected[:2]) / "synth"
    assert Counter(d.reason is None for d in sample(folder, 50, seed=0)[0]) == {True: 48, False: 2}
    write_jsonl(folder / "chains.jsonl", [])
    assert len(sample(folder, 50, seed=0)[0]) == 2


class Page(HTMLParser):
    """Checks that every element is closed, and collects elements with their attributes, and text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words = ""
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


@pytest.fixture
def clips(remark, tmp_path):
    """One accepted chain about a clip with sound, and two rejected ones, of which one is full of markup."""
    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(16_000) / 20), 16_000)
    (tmp_path / "run" / "data").mkdir(parents=True)
    (tmp_path / "a.wav").rename(tmp_path / "run" / "data" / "a.wav")
    views = {"audio": Media("audio", "a.wav"), "text": f"what a day {EVIL}"}
    records = [remark(uid=f"r-{i}{EVIL}", views=views) for i in range(3)]
    chains = [replace(records[0], rationale=GOOD, meta={"synth": synth()})]
    rejected = [
        rejection(records[1].uid, f"speaks of the label: {EVIL}", GOOD.replace("a warm word", "the label is")),
        rejection(records[2].uid, "fault: missing_block", EVIL),
    ]
    return write_run(tmp_path / "run", records, chains, rejected)


def page(run: Path) -> tuple[Page, str]:
    out = read_output(run)
    path = write_sheet(out.folder, out.records, out.root, out.task, out.result, seed=0)
    assert path == run / "synth" / "sheet.html"
    source = path.read_text(encoding="utf-8")
    return Page(source), source


def test_a_card_shows_clip_gold_answer_reason_and_the_blocks_of_the_chain(clips):
    found, source = page(clips)
    cards = [attrs for tag, attrs in found.elements if tag == "article"]
    assert Counter(c["class"] for c in cards) == {"card accepted": 1, "card rejected": 2}
    assert all(c["data-step"] == "write" and c["data-index"] == "0" for c in cards)
    assert sum(tag == "audio" for tag, _ in found.elements) == 3
    for words in (
        "gold positive, 2.0 said positive, 1.8",
        "no answer (missing_block)",
        "speaks of the label: <script>",
    ):
        assert words in found.words
    assert '<div class="block discriminate"><b>discriminate</b>positive: a warm word</div>' in source
    assert "calibrate 1, agreement 1" in found.words


def test_the_summary_stands_on_top(clips):
    found, source = page(clips)
    assert "1 (33%)" in found.words and "a-model" in found.words and "1234" in found.words
    assert '<th scope="row">speaks of the label</th><td>1</td>' in source
    assert '<th scope="row">write</th><td>1</td><td>2</td>' in source
    assert '<th scope="row">positive</th><td>3</td><td>1</td><td>33%</td>' in source


def test_the_page_asks_nobody_for_anything_and_runs_its_own_script_alone(clips):
    found, source = page(clips)
    for tag, attrs in found.elements:
        assert not {"href", "srcset", "data", "poster", "action"} & set(attrs), tag
        assert attrs.get("src", "data:").startswith("data:")
        assert not [name for name in attrs if name.startswith("on")]
    assert sum(tag == "script" for tag, _ in found.elements) == 1
    policy = next(attrs["content"] for _, attrs in found.elements if "default-src" in attrs.get("content", ""))
    script = source[source.index("<script>") + len("<script>") : source.rindex("</script>")]
    assert script == SCRIPT
    expected = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert re.search(r"default-src 'none';.*script-src '(.*)'$", policy)[1] == f"sha256-{expected}"  # type: ignore[index]


def test_the_same_page_is_written_by_the_command(clips, tmp_path):
    _, source = page(clips)
    (clips / "synth" / "sheet.html").unlink()
    done = call("data_synth.sheet", [f"hydra.run.dir={clips}"], tmp_path / "log", {})
    assert done.code == 0, done.text
    assert (clips / "synth" / "sheet.html").read_text(encoding="utf-8") == source


def test_a_run_without_a_finished_synthesis_is_named(tmp_path):
    with pytest.raises(
        StageError, match=r"synth: there is no synthesis that came to its end; run `python -m data_synth`"
    ):
        read_output(tmp_path)
    (tmp_path / "synth").mkdir()
    (tmp_path / "synth" / "stage.json").write_text('{"made_from": {}}')
    with pytest.raises(StageError, match="there is no synthesis that came to its end"):
        read_output(tmp_path)


def test_a_run_is_named_as_for_every_verb():
    assert run_folder(["run.name=a"]) == Path("outputs/a")
    assert run_folder(["hydra.run.dir=elsewhere"]) == Path("elsewhere")
    with pytest.raises(ConfigError, match=r"nme=a: .*; name the run, run.name=NAME"):
        run_folder(["nme=a"])
