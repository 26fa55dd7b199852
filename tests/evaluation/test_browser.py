"""The browser of examples: what is flagged and marked, and, in a real Chromium, how it is filtered, played and read."""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from chromium import needs_chromium, opened
from test_report import EVIL, fake_run, prediction, say, write_mp4, write_wav

from evaluation.browser import CSS as BROWSER_CSS
from evaluation.browser import POLICY, SCRIPT, Example, Said, browser
from evaluation.page import CSS
from evaluation.report import write_report
from rewards.claims import mentions
from runtime.files import read_jsonl, write_jsonl
from tasks.record import Media, Record, write_records
from tasks.target import Scalar


def said(by: str, **row: Any) -> Said:
    return Said(by, {"answer": "1.0", "completion": say(1.0), "parts": {"discriminate": 1.0, "agreement": 1.0}} | row)


def example(*answers: Said, uid: str = "u", text: str = "so it goes", media=(), **meta: Any) -> Example:
    return Example(uid, "1.0", text, media, meta, answers or [said("SFT")])


@pytest.mark.parametrize(
    ("found", "flags"),
    [
        (example(), []),
        (example(said("SFT", parts={"discriminate": 0.0})), ["wrong"]),
        (example(said("SFT", parts={"discriminate": None, "calibrate": 0.2})), ["wrong"]),
        (example(said("SFT", parts={"agreement": 0.0, "discriminate": 1.0})), ["inconsistent"]),
        (example(said("SFT", answer=None, fault="missing_block")), ["wrong", "fault"]),
        (example(said("SFT", parts={"discriminate": 0.0}), said("RL")), ["changed"]),
        (example(said("SFT"), said("RL", parts={"discriminate": 0.0})), ["wrong", "changed"]),
        (example(said("SFT", checked={"voice": True, "face": False})), ["contradicted"]),
        (example(said("sibling 0", stuck=True, level=0), said("sibling 1", stuck=True, level=1)), ["stuck", "hinted"]),
        (example(conflict=True), ["conflict"]),
        (example(said("SFT", parts={})), []),
    ],
)
def test_flags_by_hand(found: Example, flags: list[str]):
    assert found.flags() == flags


def test_mentions_of_cues_are_found_where_they_stand():
    text = "The Voice rises, no smile, 'lovely' up; others"
    assert [(text[a:b], cue) for a, b, cue in mentions(text)] == [
        ("Voice", "voice"),
        ("smile", "face"),
        ("'lovely'", "'lovely'"),
    ]


def page_of(examples: list[Example], folder: Path, limit: int = 10**6) -> Path:
    path = folder / "page.html"
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}"><title>t</title>'
    body = browser(examples, folder, limit)
    path.write_text(
        f"<!DOCTYPE html><html lang=en><head>{head}<style>{CSS}{BROWSER_CSS}</style></head><body>{body}</body></html>"
    )
    return path


def data_of(page: Path) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="examples-data">(.*?)</script>', page.read_text(), re.S)
    return json.loads(found)


def test_the_policy_allows_this_script_and_no_other(tmp_path):
    source = page_of([example()], tmp_path).read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", source, re.S)
    assert script == SCRIPT
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert POLICY.endswith(f"script-src 'sha256-{digest}'")
    assert "innerHTML" not in script and "eval(" not in script and "fetch(" not in script


def test_checked_cues_are_marked_inside_their_blocks(tmp_path):
    text = "so: <discriminate>positive: voice up, face down</discriminate><answer>1.0</answer>"
    found = data_of(page_of([example(said("SFT", completion=text, checked={"voice": True, "face": False}))], tmp_path))
    assert found["examples"][0]["said"][0]["pieces"] == [
        [None, [["so:", None]]],
        ["discriminate", [["positive: ", None], ["voice", True], [" up, ", None], ["face", False], [" down", None]]],
        ["answer", [["1.0", None]]],
    ]


def test_clips_of_flagged_examples_are_taken_first_and_the_others_say_why_not(tmp_path):
    write_wav(tmp_path / "a.wav", 0.2)
    media = [{"kind": "audio", "path": "a.wav"}]
    size = len(json.dumps(data_of(page_of([example(media=media)], tmp_path))["clips"][0][1])) * 3 // 4
    quiet, wrong = (
        example(uid="a", media=media),
        example(said("SFT", parts={"discriminate": 0.0}), uid="b", media=media),
    )
    found = data_of(page_of([quiet, wrong], tmp_path, limit=size + size // 2))["examples"]
    assert [len(e["clips"]) for e in found] == [0, 1]
    assert found[0]["lacks"] == ["No audio: the clips of this page would exceed 0 MB."]
    gone = data_of(page_of([example(media=[{"kind": "audio", "path": "gone.wav"}])], tmp_path))["examples"][0]
    assert gone["clips"] == [] and gone["lacks"][0].startswith("No audio: ")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """24 records; one has no answer, one is wrong, one was mended by RL, and one group of training was stuck and hinted."""
    run = fake_run(tmp_path)
    for stage in ("sft", "rl"):
        path = run / "eval" / stage / "predictions.jsonl"
        rows = read_jsonl(path)
        for i, row in enumerate(rows):
            row["meta"] = {"conflict": i % 2 == 0}
            row["parts"] |= {"discriminate": float(i not in ((5,) if stage == "rl" else (5, 7))), "agreement": 1.0}
        rows[7]["checked"] = {"voice": True, "words": False}
        write_jsonl(path, rows)
    record = Record(
        uid="train-0",
        task="studio",
        split="train",
        group="g",
        views={"text": "well, well", "sound": Media("audio", "clips/a.wav")},
        target=Scalar(1.0, -3, 3, 0.2),
    )
    write_records(run / "data" / "records.jsonl", [record])
    row = {
        "uid": "train-0",
        "completion": say(-1.0),
        "fault": None,
        "parts": {"discriminate": 0.0},
        "reward": 0.25,
        "stuck": True,
    }
    rows = [
        row | {"sibling": 0, "level": 0, "hint": ""},
        row | {"sibling": 1, "level": 1, "hint": "<discriminate>positive"},
    ]
    write_jsonl(run / "rl" / "rollouts" / "step_000003_rank0.jsonl", rows)
    return run


@needs_chromium
def test_a_person_filters_plays_and_reads_by_mouse(run):
    with opened(write_report(run)) as page:
        count, items = page.locator(".filters [role=status]"), page.locator(".list li")
        assert count.inner_text() == "25 of 25"
        page.click("[data-flag=wrong]")
        assert page.get_attribute("[data-flag=wrong]", "aria-pressed") == "true"
        assert sorted(x.partition("\n")[0] for x in items.all_inner_texts()) == [
            "clip-03",
            "clip-05",
            "train-0, step 3",
        ]
        page.click("[data-flag=fault]")
        assert count.inner_text() == "1 of 25"
        assert "Fault: missing_block" in page.inner_text(".one")
        page.click("[data-flag=wrong]")
        page.click("[data-flag=fault]")
        page.click("[data-flag=changed]")
        assert page.inner_text(".one h3").startswith("clip-07: gold")
        assert page.locator(".one mark.yes").all_inner_texts() == ["voice"] * 4  # twice in each of two answers
        assert "words" in page.locator(".one mark.no").all_inner_texts()
        assert [h.partition(":")[0] for h in page.locator(".one h4").all_inner_texts()] == ["SFT", "Hint-GRPO"]
        page.click("[data-flag=changed]")
        page.click("[data-flag=hinted]")
        text = page.inner_text(".one")
        assert "train-0, step 3" in text and "<discriminate>positive" in text and "0.25" in text
        page.click("[data-flag=hinted]")
        page.fill("input[type=search]", "CLIP-11")
        assert count.inner_text() == "1 of 25"
        page.fill("input[type=search]", "no such words")
        assert count.inner_text() == "0 of 25"
        assert page.inner_text(".one") == "No example has all of this."


def until(page: Any, condition: str) -> None:
    """As `page.wait_for_function`, which the page's policy lets look only once: the second look is an `eval` of its own."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"not so within 10 s: {condition}")


@needs_chromium
def test_a_person_does_the_same_by_keyboard(run):
    with opened(write_report(run)) as page:
        chosen = page.locator(".list li[aria-selected=true]")
        first = chosen.inner_text()
        page.keyboard.press("j")
        second = chosen.inner_text()
        assert second != first
        page.keyboard.press("k")
        assert chosen.inner_text() == first
        page.focus("[role=listbox]")
        page.keyboard.press("ArrowDown")
        assert chosen.inner_text() == second
        page.keyboard.press("/")
        page.keyboard.type("clip-05")
        assert chosen.count() == 1 and chosen.inner_text().startswith("clip-05")
        page.keyboard.press("Escape")
        assert page.evaluate("document.activeElement.getAttribute('role')") == "listbox"
        page.keyboard.press("p")
        until(page, "document.querySelector('.one video').currentTime > 0.05")
        page.keyboard.press("p")
        assert page.evaluate("document.querySelector('.one video').paused")
        page.keyboard.press("f")
        assert page.evaluate("document.activeElement.dataset.flag") == "wrong"
        page.keyboard.press("Enter")
        assert page.locator(".filters [role=status]").inner_text() == "1 of 25"


@needs_chromium
def test_what_a_model_says_stays_text(tmp_path):
    evil = example(
        said(
            EVIL, completion=f"{EVIL}<discriminate>{EVIL}</discriminate></script>{EVIL}", fault=EVIL, parts={EVIL: 1.0}
        ),
        uid=EVIL,
        text=f"</script>{EVIL}",
        **{EVIL: EVIL},
    )
    with opened(page_of([evil], tmp_path)) as page:
        page.on("dialog", lambda d: pytest.fail("a script of the model ran"))
        assert page.inner_text(".one h3").startswith(EVIL)
        assert page.locator(".one img, .one script").count() == 0
        assert page.inner_text(".one blockquote") == f"</script>{EVIL}"


@needs_chromium
def test_five_thousand_examples_are_shown_fifty_at_a_time(tmp_path):
    many = [
        example(said("SFT", parts={"discriminate": float(i % 10 > 0)}), said("RL"), uid=f"clip-{i:04}")
        for i in range(5000)
    ]
    with opened(page_of(many, tmp_path)) as page:
        items = page.locator(".list li")
        assert items.count() == 50
        page.click("text=next 50")
        assert items.first.inner_text().startswith("clip-0050")
        page.click("[data-flag=changed]")
        assert page.inner_text(".filters [role=status]") == "500 of 5000"
        assert page.inner_text(".pages .soft") == "1 to 50 of 500"
        for _ in range(60):
            page.keyboard.press("j")
        assert page.inner_text(".one h3").startswith("clip-0600")
        page.fill("input[type=search]", "clip-4990")
        assert items.count() == 1
        # elements on the page do not grow with the number of examples
        assert page.evaluate("document.querySelectorAll('*').length") < 200


@needs_chromium
def test_light_and_dark_are_both_readable(run):
    path = write_report(run)
    seen = {}
    for dark in (False, True):
        with opened(path, dark) as page:
            colours = page.evaluate("['color', 'backgroundColor'].map(k => getComputedStyle(document.body)[k])")
            seen[dark] = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours]
    (ink, paper), (light_ink, dark_paper) = seen[False], seen[True]
    assert paper - ink > 400 and light_ink - dark_paper > 400


def test_prediction_rows_without_checks_are_read(tmp_path):
    assert example(Said("SFT", prediction("u", 1.0, 1.0))).flags() == []
    write_mp4(tmp_path / "a.mp4")
    found = data_of(page_of([example(media=[{"kind": "video", "path": "a.mp4", "span": None}])], tmp_path))
    assert found["clips"][0][0].startswith("video/")
