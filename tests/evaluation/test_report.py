"""The page: whole, self-contained, harmless whatever a model says, and honest about what is missing."""

import base64
import io
import json
import re
import subprocess
import sys
import wave
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import pytest

from evaluation import clips, plot, report
from evaluation.clips import browser_clip
from evaluation.report import print_table, write_report
from runtime.errors import MediaError, StageError
from runtime.files import read_jsonl, write_json, write_jsonl

EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)>'


def write_wav(path: Path, seconds: float = 1.0) -> None:
    samples = (8000 * np.sin(2 * np.pi * 220 * np.arange(int(16000 * seconds)) / 16000)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(samples.tobytes())


def write_mp4(path: Path, frames: int = 12, size: int = 64) -> None:
    """MPEG-4 part 2, which no browser plays: a square that wanders over a grey field."""
    with av.open(str(path), "w") as box:
        film = box.add_stream("mpeg4", rate=12)
        film.width = film.height = size
        film.pix_fmt = "yuv420p"
        for i in range(frames):
            image = np.full((size, size, 3), 90, np.uint8)
            image[20:40, 3 * i : 3 * i + 20] = (240, 180, 60)
            box.mux(film.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        box.mux(film.encode(None))


def scores(**values: float) -> dict:
    metrics = {k: {"value": v, "lo": v - 0.05, "hi": v + 0.05} for k, v in values.items()}
    return {
        "n": 24,
        "metrics": metrics,
        "interval": {"level": 0.95, "resamples": 1000, "unit": "group", "units": 6},
        "faults": {"missing_block": 2},
        "parts": {
            "format": {"mean": 0.9, "n": 24, "unscored": 0},
            "agreement": {"mean": None, "n": 0, "unscored": 24},
        },
    }


def say(x: float, why: str = "the voice rises and the mouth smiles, although the words complain") -> str:
    side = "negative" if x < -0.2 else "positive" if x > 0.2 else "neutral"
    return (
        f"<discriminate>{side}: {why}</discriminate>"
        f"<calibrate>a loud voice raises it, plain words lower it a little</calibrate><answer>{x}</answer>"
    )


def fake_run(folder: Path, records: int = 24) -> Path:
    """A run folder as the pipeline leaves it, with invented numbers."""
    run = folder / "demo"
    (run / "data" / "clips").mkdir(parents=True)
    write_wav(run / "data" / "clips" / "a.wav")
    write_mp4(run / "data" / "clips" / "a.mp4")
    write_json(run / "data" / "dataset.json", {"root": str(run / "data")})
    summary = {
        "task": "studio",
        "model": "tiny_omni",
        "seed": 7,
        "baseline": {"mae": 1.31, "corr": 0.0, "polarity": 0.46},
        "oracles": {"text": {"mae": 1.02, "corr": 0.4, "polarity": 0.6}, "all three": {"mae": 0.0, "corr": 1.0}},
        "teacher": {"accepted": 0.93, "asked": 480},
        "base": scores(mae=2.4, corr=0.01, polarity=0.2),
        "sft": scores(mae=0.8, corr=0.6, polarity=0.71),
        "rl": scores(mae=0.61, corr=0.74, polarity=0.82),
        "ablations": {"silent audio": {"mae": 0.9, "corr": 0.5, "polarity": 0.66}, "black video": scores(mae=1.1)},
        "hint": {"stuck_rate": {"first": 0.5, "last": 0.1}},
        "parity": {"largest_gap": 1.2e-6, "checks": 4},
        "seconds": {"sft": 61.2, "rl": 240.0},
    }
    write_json(run / "summary.json", summary)
    attempt = {"at": "2031-02-03T04:05:06+00:00", "git": {"revision": "0123456789abcdef", "dirty": True}}
    write_json(run / "manifest.json", {"attempts": [attempt]})
    rng = np.random.default_rng(0)
    for stage, scale in (("sft", 0.8), ("rl", 0.4)):
        steps = np.arange(1, 121)
        learned = 1 - np.exp(-steps / 40)
        rows = (
            [{"step": int(s), "loss": 2.5 - 1.8 * w + rng.normal(0, 0.1)} for s, w in zip(steps, learned, strict=True)]
            + [{"step": s, "eval_loss": 2.4 - s / 80, "epoch": None} for s in (40, 80, 120)]
            if stage == "sft"
            else [
                {
                    "step": int(s),
                    "reward": 0.4 + 0.4 * w + rng.normal(0, 0.05),
                    "parts/discriminate": 0.3 + 0.5 * w + rng.normal(0, 0.08),
                    "parts/calibrate": 0.5 + 0.3 * w + rng.normal(0, 0.05),
                    "hint/stuck_rate": max(0, 0.6 - 0.5 * w + rng.normal(0, 0.08)),
                    "hint/rate": None,
                    "completions/mean_length": 40 + 6 * w,
                }
                for s, w in zip(steps, learned, strict=True)
            ]
        )
        write_jsonl(run / stage / "metrics.jsonl", rows)
        golds = np.random.default_rng(1).integers(-30, 31, records) / 10
        answers = [float(x) for x in (golds + rng.normal(0, scale, records)).clip(-3, 3).round(1)]
        write_jsonl(
            run / "eval" / stage / "predictions.jsonl",
            [
                prediction(f"clip-{i:02d}", float(g), None if i == 3 else a)
                for i, (g, a) in enumerate(zip(golds, answers, strict=True))
            ],
        )
    return run


def prediction(uid: str, gold: float, answer: float | None) -> dict:
    return {
        "uid": uid,
        "gold": str(gold),
        "answer": None if answer is None else str(answer),
        "fault": "missing_block" if answer is None else None,
        "parts": {
            "format": float(answer is not None),
            "calibrate": 0.0 if answer is None else 1 - abs(gold - answer) / 6,
            "agreement": None,
        },
        "completion": "It sounds happy, I would say two." if answer is None else say(answer),
        "text": "we waited the whole afternoon for this",
        "media": [{"kind": "video", "path": "clips/a.mp4"}, {"kind": "audio", "path": "clips/a.wav"}],
        "meta": {"conflict": True, "cues": {"words": -1, "voice": 1}},
    }


class Page(HTMLParser):
    """Checks that every element is closed, and collects attributes and text."""

    VOID = ("meta", "img", "link", "br")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.words = ""
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, k, v or "") for k, v in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, k, v or "") for k, v in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data

    def values(self, *names: str) -> list[str]:
        return [v for _, k, v in self.attributes if k in names]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Page:
    run = fake_run(tmp_path_factory.mktemp("report"))
    path = write_report(run)
    assert path == run / "report.html"
    return Page(path)


def test_the_page_asks_nobody_for_anything(page):
    for target in page.values("src", "href", "xlink:href", "srcset", "data", "poster"):
        assert target.startswith(("data:", "#")), target[:80]
    assert not re.search(r"url\((?!#)|@import", page.source)
    assert page.tags["link"] == page.tags["iframe"] == 0
    assert page.tags["script"] == 2  # examples as JSON, and the one that the policy names
    assert any(v.startswith("default-src 'none'") for v in page.values("content"))


def test_ids_are_unique_and_every_anchor_leads_somewhere(page):
    ids = page.values("id")
    assert [i for i, n in Counter(ids).items() if n > 1] == []
    anchors = {v for v in page.values("href", "xlink:href") if v.startswith("#")}
    anchors |= set(re.findall(r"url\((#[^)]+)\)", page.source))
    assert {a[1:] for a in anchors} <= set(ids)


def test_the_page_names_what_made_it(page):
    for words in ("studio", "tiny_omni", "7", "2031-02-03T04:05:06+00:00", "0123456789ab with changes"):
        assert words in page.words
    assert "missing" not in page.values("class")


def test_results_stand_side_by_side_with_intervals(page):
    heads = re.findall(r'<th scope="col">([^<]*)</th>', page.source)
    assert heads[:7] == [
        "metric",
        "Trivial rule",
        "Before SFT",
        "SFT",
        "Hint-GRPO",
        "Oracle: text",
        "Oracle: all three",
    ]
    assert "<td>0.610<small>[0.560, 0.660]</small></td>" in page.source
    assert "over 6 groups" in page.words
    assert "nothing removed (Hint-GRPO)" in page.words
    assert "silent audio" in page.words


def test_plots_follow_the_colour_scheme_and_can_be_read_aloud(page):
    assert page.tags["svg"] == 6
    assert not set(plot.COLOURS) & set(re.findall("#[0-9a-f]{6}", page.source))
    assert "var(--c1)" in page.source
    assert any(v.startswith("Hint-GRPO: reward. reward (weighted mean) from") for v in page.values("aria-label"))
    assert "@media (prefers-color-scheme: dark)" in page.source
    assert "23 of 24 answers could be read" in page.words


def test_hint_metrics_are_drawn_where_the_log_has_them(tmp_path):
    run = fake_run(tmp_path, records=2)
    kept = ("step", "hint/stuck_rate", "reward")
    rows = [{k: v for k, v in row.items() if k in kept} for row in read_jsonl(run / "rl" / "metrics.jsonl")]

    def titles(**more: float) -> dict[str, str]:
        """Title -> caption of every plot about reinforcement, when all rows have `more`, which grows by a half."""
        grown = [
            row | {k.replace("__", "/"): v * (1 + i / 2 / (len(rows) - 1)) for k, v in more.items()}
            for i, row in enumerate(rows)
        ]
        write_jsonl(run / "rl" / "metrics.jsonl", grown)
        labels = [v for v in Page(write_report(run)).values("aria-label") if v.startswith("Hint-GRPO: ")]
        return {title.removeprefix("Hint-GRPO: "): caption for title, _, caption in (x.partition(". ") for x in labels)}

    plain = titles()
    assert list(plain)[:2] == ["reward", "stuck and hinted"]
    assert plain["stuck and hinted"].startswith("stuck prompts from")
    assert "hinted rows" not in plain["stuck and hinted"]
    for title in ("solved", "size of hints", "reliance on hints", "tokens"):
        assert title not in plain

    solved = titles(solve__unhinted=0.2, solve__hinted=0.4, solve__verdict_unhinted=0.6)
    assert set(solved) - set(plain) == {"solved"}
    for label in ("without a hint", "with a hint", "verdict, without a hint"):
        assert f"{label} from" in solved["solved"]
    assert "with a hint from 0.4" in solved["solved"]

    every = titles(hint__rate=0.1, hint__probability=0.5, reward__groups_without_signal=0.3)["stuck and hinted"]
    for label in ("hinted rows", "schedule", "groups without signal"):
        assert f"{label} from" in every
    others = titles(hint__level=1.0, hint__length=0.5, hint__reliance=-0.4, tokens__generated=2000.0)
    assert set(others) - set(plain) == {"size of hints", "reliance on hints", "tokens"}
    assert "level from 1.0" in others["size of hints"] and "length (controller) from 0.5" in others["size of hints"]
    assert others["reliance on hints"].startswith("mean log p with the hint's tokens minus without from -0.4")
    assert others["tokens"].startswith("generated so far from 20")


def examples_of(page: Page) -> dict:
    (found,) = re.findall(r'<script type="application/json" id="examples-data">(.*?)</script>', page.source, re.S)
    return json.loads(found)


def test_examples_show_both_stages_with_their_blocks_from_the_most_improved_on(page):
    data = examples_of(page)
    assert len(data["examples"]) == 24
    gains = [
        sum(s["parts"]["calibrate"] for s in e["said"][1:]) - e["said"][0]["parts"]["calibrate"]
        for e in data["examples"]
    ]
    assert gains == sorted(gains, reverse=True)
    assert {tuple(s["by"] for s in e["said"]) for e in data["examples"]} == {("SFT", "Hint-GRPO")}
    named = {e["uid"]: e for e in data["examples"]}
    faulty = named["clip-03"]["said"][1]
    assert (faulty["fault"], faulty["answer"], faulty["right"]) == ("missing_block", None, False)
    assert faulty["pieces"] == [[None, [["It sounds happy, I would say two.", None]]]]
    assert [name for name, _ in named["clip-04"]["said"][0]["pieces"]] == ["discriminate", "calibrate", "answer"]
    assert named["clip-04"]["meta"] == {"conflict": True, "cues": {"words": -1, "voice": 1}}
    assert named["clip-04"]["said"][0]["parts"]["agreement"] is None


def test_embedded_films_are_of_a_kind_that_browsers_play(page):
    data = examples_of(page)
    assert all(len(e["clips"]) == 2 for e in data["examples"])
    mime, content = next(clip for clip in data["clips"] if clip[0].startswith("video"))
    with av.open(io.BytesIO(base64.b64decode(content))) as box:
        assert (mime, box.streams.video[0].codec_context.name) in {("video/mp4", "h264"), ("video/webm", "vp8")}
        assert len(list(box.decode(video=0))) == 12


def test_nothing_that_a_model_or_a_record_says_becomes_markup(tmp_path):
    run = fake_run(tmp_path, records=2)
    summary = json.loads((run / "summary.json").read_text())
    write_json(
        run / "summary.json",
        summary
        | {"task": EVIL, "model": EVIL, "teacher": {EVIL: EVIL}, "ablations": {EVIL: {"mae": 1.0}}}
        | {"rl": {**summary["rl"], "faults": {EVIL: 1}}, "oracles": {EVIL: {"mae": 1.0}}},
    )
    row = prediction("u", 1.0, 1.0)
    evil = row | {"uid": EVIL, "fault": EVIL, "text": EVIL, "meta": {EVIL: EVIL}, "parts": {EVIL: 1.0}}
    evil["completion"] = f"{EVIL}<discriminate>{EVIL}</discriminate></div></section>{EVIL}<answer>$x_${EVIL}</answer>"
    evil["media"] = [{"kind": "audio", "path": f"{EVIL}.wav"}]
    for stage in ("sft", "rl"):
        write_jsonl(run / "eval" / stage / "predictions.jsonl", [evil, row | {"gold": EVIL, "answer": EVIL}])
    write_jsonl(
        run / "rl" / "metrics.jsonl",
        [{"step": i, "parts/format": 0.1 * i, f"parts/{EVIL[:8]}$a_$": 0.1 * i} for i in range(3)],
    )
    page = Page(write_report(run))
    assert (page.tags["script"], page.tags["img"]) == (2, 0)
    assert [k for _, k, _ in page.attributes if k.startswith("on")] == []
    assert page.words.count("alert(1)") > 10


def test_a_run_with_nothing_but_a_summary_says_what_is_missing(tmp_path):
    write_json(tmp_path / "summary.json", {"task": "t", "model": "m"})
    page = Page(write_report(tmp_path))
    for sentence in (
        "there is no manifest.json",
        "No results: summary.json holds no metrics.",
        "No SFT curves: sft/metrics.jsonl is not there",
        "No Hint-GRPO curves: rl/metrics.jsonl is not there",
        "No predictions: eval/<stage>/predictions.jsonl is not there for any stage.",
        "Not measured: summary.json holds no ablations.",
        "No examples: eval/<stage>/predictions.jsonl is not there for any stage.",
        "Not recorded in summary.json.",
    ):
        assert sentence in page.words
    assert page.tags["svg"] == page.tags["table"] == 0


def test_a_run_without_rl_shows_what_there_is(tmp_path):
    run = fake_run(tmp_path, records=3)
    summary = json.loads((run / "summary.json").read_text())
    write_json(run / "summary.json", {k: v for k, v in summary.items() if k not in ("rl", "base")})
    (run / "eval" / "rl" / "predictions.jsonl").unlink()
    page = Page(write_report(run))
    assert "Not in this run: Before SFT, Hint-GRPO." in page.words
    assert "nothing removed (SFT)" in page.words
    assert "3 of 3 records, from best to worst." in page.words


def test_a_folder_without_a_summary_is_refused(tmp_path):
    with pytest.raises(StageError, match=r"there is no summary.json; finish the run first, or name another run folder"):
        write_report(tmp_path)


def test_the_command_ends_with_one_line_on_an_error(tmp_path):
    command = [sys.executable, "-m", "evaluation.report", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path}: there is no summary.json")


def test_classes_get_a_confusion_matrix(tmp_path):
    run = fake_run(tmp_path)
    pairs = [("joy", "joy"), ("joy", "anger"), ("anger", "anger"), ("anger", None)]
    rows = [prediction(f"u{i}", 0, 0) | {"gold": g, "answer": a} for i, (g, a) in enumerate(pairs)]
    for stage in ("sft", "rl"):
        write_jsonl(run / "eval" / stage / "predictions.jsonl", rows)
    page = Page(write_report(run))
    # gold anger: one right, none joy, one without an answer
    row = re.search(r'<tr><th scope="row">anger</th>(.*?)</tr>', page.source)
    assert row is not None
    assert re.findall(r">(\d)</td>", row[1]) == ["1", "0", "1"]
    assert page.source.count("other or none") == 2


def test_too_many_classes_are_not_drawn(tmp_path):
    run = fake_run(tmp_path)
    rows = [prediction(f"u{i}", 0, 0) | {"gold": f"word {i}", "answer": "word"} for i in range(25)]
    write_jsonl(run / "eval" / "rl" / "predictions.jsonl", rows)
    write_jsonl(run / "eval" / "sft" / "predictions.jsonl", rows)
    assert "No confusion matrix: gold holds 25 different answers, more than 24." in Page(write_report(run)).words


def test_a_clip_that_cannot_be_opened_gives_its_reason(tmp_path):
    run = fake_run(tmp_path, records=2)
    (run / "data" / "clips" / "a.wav").unlink()
    (run / "data" / "clips" / "a.mp4").write_bytes(b"no film")
    page = Page(write_report(run))
    assert "a.wav: there is no such media file" in page.words
    assert "a.mp4: not a readable video file" in page.words


def test_clips_stop_at_the_limit_of_the_page(tmp_path, monkeypatch):
    run = fake_run(tmp_path, records=8)
    [(_, film)] = browser_clip(run / "data" / "clips" / "a.mp4", "video")
    monkeypatch.setattr(report, "MEDIA_BYTES", 4 * len(film))
    page = Page(write_report(run))
    embedded = [content for _, content in examples_of(page)["clips"]]
    assert 3 * len(film) < sum(len(base64.b64decode(e)) for e in embedded) <= 4 * len(film)
    assert "No video: the clips of this page would exceed" in page.words


def test_without_a_video_encoder_a_strip_of_frames_takes_its_place(tmp_path, monkeypatch):
    write_mp4(tmp_path / "a.mp4")
    monkeypatch.setattr(clips, "VIDEO", ())
    [(mime, data)] = browser_clip(tmp_path / "a.mp4", "video")
    assert mime == "image/png"
    with av.open(io.BytesIO(data)) as box:
        assert (box.streams.video[0].width, box.streams.video[0].height) == (6 * 64, 64)


def test_large_and_long_films_are_made_smaller(tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "SECONDS", 1.0)
    write_mp4(tmp_path / "a.mp4", frames=36, size=480)
    [(_, data)] = browser_clip(tmp_path / "a.mp4", "video")
    with av.open(io.BytesIO(data)) as box:
        assert box.streams.video[0].height == 240
        assert len(list(box.decode(video=0))) == 12


def test_a_span_is_cut_out(tmp_path):
    write_mp4(tmp_path / "a.mp4", frames=24)
    write_wav(tmp_path / "a.wav", seconds=2.0)
    [(_, film)] = browser_clip(tmp_path / "a.mp4", "video", (0.5, 1.0))
    with av.open(io.BytesIO(film)) as box:
        images = [frame.to_ndarray(format="rgb24") for frame in box.decode(video=0)]
    assert len(images) == 6
    # frame 6 is the first: the square begins at column 18
    assert images[0][30, 10].max() < 130 < images[0][30, 25, 0]
    [(_, sound)] = browser_clip(tmp_path / "a.wav", "audio", (0.5, 1.0))
    with av.open(io.BytesIO(sound)) as box:
        assert sum(frame.samples for frame in box.decode(audio=0)) / 16000 == pytest.approx(0.5, abs=0.15)  # mp3 pads


@pytest.mark.parametrize(
    "kind, span, message",
    [
        ("video", None, "holds no video stream; drop the video view"),
        ("audio", (5.0, 6.0), r"no sound between 5.0 and 6.0 s; mend the span"),
    ],
)
def test_media_without_what_is_asked_for_is_refused(tmp_path, kind, span, message):
    write_wav(tmp_path / "a.wav")
    with pytest.raises(MediaError, match=message):
        browser_clip(tmp_path / "a.wav", kind, span)


def test_silent_films_have_no_sound_to_play_alone(tmp_path):
    write_mp4(tmp_path / "a.mp4")
    with pytest.raises(MediaError, match="no sound between"):
        browser_clip(tmp_path / "a.mp4", "audio")
    with pytest.raises(MediaError, match=r"holds no frame between 7.0 and 8.0 s; mend the span"):
        browser_clip(tmp_path / "a.mp4", "video", (7.0, 8.0))


def test_the_console_table_by_hand():
    summary = {
        "baseline": {"mae": 1.3, "corr": 0.0},
        "oracles": {"text": {"mae": 1.0}},
        "teacher": {"metrics": {"mae": 0.2}},
        "sft": {"metrics": {"mae": {"value": 0.8, "lo": 0.7, "hi": 0.9}, "corr": {"value": 0.5, "lo": 0.4, "hi": 0.6}}},
    }
    assert print_table(summary).splitlines() == [
        "        Trivial rule  Teacher                   SFT",
        "mae ↓          1.300    0.200  0.800 [0.700, 0.900]",
        "corr ↑         0.000        -  0.500 [0.400, 0.600]",
    ]
