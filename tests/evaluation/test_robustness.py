"""Input that gets worse: each condition changes what it says, by as much as it says, and nothing else; and the command."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from test_strategies_command import SIZES, TASK
from test_strategies_command import run as run
from verbs import call

from evaluation.compare.__main__ import main as compare
from evaluation.robustness.conditions import Condition, Place, misheard, wanted, worsened
from evaluation.robustness.config import RobustnessConfig
from models.media import read_audio, read_video
from models.processor import Processor
from runtime.config import section
from runtime.errors import ConfigError, RecordError
from runtime.files import read_jsonl, write_jsonl
from runtime.main import CONF
from tasks.base import Dataset
from tasks.record import Media, Record
from tasks.studio.task import Studio

with initialize_config_dir(CONF, version_base=None):
    CFG: RobustnessConfig = section(compose("eval", ["run.dir=x"]), "robustness", RobustnessConfig)


@pytest.fixture
def place(studio: Studio, studio_data: Dataset, tmp_path: Path) -> Place:
    return Place(studio_data.root, tmp_path / "media", studio.views, 5.0, False, 3)


def path_of(record: Record, view: str) -> Path:
    media = record.views[view]
    assert isinstance(media, Media)
    return Path("/", media.path)


def ratio(clean: np.ndarray, worse: np.ndarray) -> float:
    noise = worse.astype(np.float64) - clean
    return 10 * math.log10(np.mean(clean.astype(np.float64) ** 2) / np.mean(noise**2))


def test_the_default_conditions_in_their_order(studio, studio_data):
    names = [c.name for c in wanted(CFG, studio_data.split("test"), studio.views, False)]
    assert names == [
        *("missing-video", "missing-audio", "missing-text"),
        *("snr-20", "snr-10", "snr-0"),
        *("dropped-0.25", "dropped-0.5", "dropped-0.75"),
        *("words-0.1", "words-0.3"),
    ]


def test_what_a_task_does_not_show_cannot_get_worse(studio_data):
    names = {c.kind for c in wanted(CFG, studio_data.split("test"), ["text"], True)}
    assert names == {"missing", "words"}
    silent = [replace(r, views={"text": "so"}) for r in studio_data.split("test")]
    assert {c.name for c in wanted(CFG, silent, ["video", "text"], True)} == {"missing-text", "words-0.1", "words-0.3"}


def test_sound_inside_of_films_gets_worse_where_it_is_heard(studio_data):
    films = {
        heard: {c.name for c in wanted(CFG, studio_data.split("test"), ["video"], heard)} for heard in (True, False)
    }
    assert films[True] - films[False] == {"missing-audio", "snr-20", "snr-10", "snr-0"}


@pytest.mark.parametrize("gone", ["video", "audio", "text"])
def test_a_missing_modality_is_left_out_of_the_prompt(gone, studio, studio_data, place):
    records = studio_data.split("test")[:2]
    worse = worsened(Condition("missing", gone), CFG, records, place)
    for record, kept in zip(records, worse, strict=True):
        assert set(kept.views) == {"video", "audio", "text"} - {gone}
        parts = [p for p in studio.prompt(kept, Path("/"))[0]["content"] if p.get("view") or p["type"] != "text"]
        assert len(parts) == 2
        assert (kept.uid, kept.target) == (record.uid, record.target)


@pytest.mark.parametrize("kind", ["white", "babble"])
def test_noise_has_the_ratio_and_grows_with_nothing_else_changed(kind, studio_data, place):
    records, cfg = studio_data.split("test"), replace(CFG, noise=kind)
    found = {snr: worsened(Condition("snr", snr), cfg, records, place) for snr in (20.0,)}
    quiet = [read_audio(path_of(r, "audio")) for r in found[20.0]]
    loud = [read_audio(path_of(r, "audio")) for r in worsened(Condition("snr", 0.0), cfg, records, place)]
    for record, soft, strong in zip(records, quiet, loud, strict=True):
        clean = read_audio(studio_data.root / record.views["audio"].path)
        assert ratio(clean, soft) == pytest.approx(20, abs=0.01) and ratio(clean, strong) == pytest.approx(0, abs=0.01)
        assert np.corrcoef(soft - clean, strong - clean)[0, 1] > 0.999
        assert not np.allclose(soft, quiet[0]) or record is records[0]
    films = {path_of(r, "video") for r in found[20.0]}
    assert films == {(studio_data.root / r.views["video"].path).absolute() for r in records}, (
        "films stay where they are"
    )


def test_babble_needs_others(studio_data, place):
    records = studio_data.split("test")
    alone = [r for r in records if r.group == records[0].group]
    with pytest.raises(
        ConfigError, match=r"robustness\.noise: babble needs clips of two speakers .* got 1; choose noise=white"
    ):
        worsened(Condition("snr", 0.0), replace(CFG, noise="babble"), alone, place)


def test_a_model_that_hears_films_hears_the_noise_in_them(studio_data, place):
    records = studio_data.split("test")[:2]
    inside = replace(place, audio_in_video=True)
    for record, worse in zip(records, worsened(Condition("snr", 5.0), CFG, records, inside), strict=True):
        film = studio_data.root / record.views["video"].path
        clean, pictures = read_audio(film), read_video(film, 5.0)[0]
        assert ratio(clean, read_audio(path_of(worse, "video"))) == pytest.approx(5, abs=0.01)
        assert bool((read_video(path_of(worse, "video"), 5.0)[0] == pictures).all())


def test_a_model_that_hears_films_misses_their_sound(tiny, studio, studio_data, place):
    _, _, processor = tiny
    assert isinstance(processor, Processor) and processor.settings.audio_in_video
    inside, records = replace(place, audio_in_video=True), studio_data.split("test")[:1]
    (worse,) = worsened(Condition("missing", "audio"), CFG, records, inside)
    heard = processor.encode(studio.prompt(records[0], studio_data.root)).media["input_features"]
    missed = processor.encode(studio.prompt(worse, Path("/"))).media["input_features"]
    assert heard.std() > 0.1 and missed.unique().numel() == 1


def test_lost_frames_are_nested_and_the_rest_stays(studio_data, place):
    records = studio_data.split("test")
    lost: dict[float, list[set[int]]] = {}
    for share in (0.3, 0.7):
        worse = worsened(Condition("dropped", share), CFG, records, place)
        lost[share] = []
        for record, now in zip(records, worse, strict=True):
            before, after = (
                read_video(p, 100)[0] for p in (studio_data.root / record.views["video"].path, path_of(now, "video"))
            )
            lost[share].append({i for i in range(len(before)) if not bool((before[i] == after[i]).all())})
            assert path_of(now, "audio") == (studio_data.root / record.views["audio"].path).absolute()
    assert all(few <= many for few, many in zip(lost[0.3], lost[0.7], strict=True))
    slots = sum(len(read_video(studio_data.root / r.views["video"].path, 100)[0]) - 1 for r in records)
    few, many = (sum(map(len, lost[share])) / slots for share in (0.3, 0.7))
    assert few == pytest.approx(0.3, abs=0.2) and many == pytest.approx(0.7, abs=0.2)


def test_the_same_seed_is_the_same_file(studio_data, place, tmp_path):
    records = studio_data.split("test")[:2]
    first, again, other = (
        [path_of(r, "audio").read_bytes() for r in worsened(Condition("snr", 0.0), CFG, records, where)]
        for where in (place, replace(place, folder=tmp_path / "b"), replace(place, folder=tmp_path / "c", seed=4))
    )
    assert first == again and first != other


# words


def test_words_by_hand():
    class Draws:
        """An error in every word: replaced, another one put in behind it, left out."""

        def __init__(self) -> None:
            self.numbers = iter([0, 0, 1, 1, 2, 0])

        def random(self) -> float:
            return 0.0

        def integers(self, n: int) -> int:
            return next(self.numbers)

    assert misheard("what a day", 1.0, ["one", "two"], Draws()) == "one a two"  # type: ignore[arg-type]


@given(st.text("ab ", max_size=30), st.integers(0, 99))
def test_no_errors_are_the_same_words(text: str, seed: int):
    assert misheard(text, 0.0, ["x"], np.random.default_rng(seed)) == " ".join(text.split())


def test_the_rate_of_errors_is_the_one_asked_for():
    """Minimal edits cannot exceed the errors made, and come close to them where words hardly repeat."""
    said = " ".join(f"w{i}" for i in range(3000))
    heard = misheard(said, 0.3, [f"x{i}" for i in range(1000)], np.random.default_rng(0)).split()
    kept = sum(word.startswith("w") for word in heard)
    # a third of the errors put a word in and keep the other
    assert kept / 3000 == pytest.approx(1 - 0.3 * 2 / 3, abs=0.03)
    assert len(heard) / 3000 == pytest.approx(1, abs=0.03)


# transcripts


def test_another_transcript_takes_the_place_of_the_text(studio_data, place, tmp_path):
    records = studio_data.split("test")
    write_jsonl(tmp_path / "asr.jsonl", [{"uid": r.uid, "text": f"heard {i}"} for i, r in enumerate(records)])
    cfg = replace(CFG, transcripts={"text": str(tmp_path / "asr.jsonl")})
    worse = worsened(Condition("transcript", "text"), cfg, records, place)
    assert [r.views["text"] for r in worse] == [f"heard {i}" for i in range(len(records))]
    both = [replace(r, views=dict(r.views) | {"asr": "from the view"}) for r in records]
    seen = worsened(Condition("transcript", "text"), replace(CFG, transcripts={"text": "asr"}), both, place)
    assert {r.views["text"] for r in seen} == {"from the view"}


def test_a_transcript_that_is_not_there(studio_data, place, tmp_path):
    records = studio_data.split("test")
    file = tmp_path / "asr.jsonl"
    write_jsonl(file, [{"uid": r.uid, "text": "so"} for r in records[1:]])

    def ask(view: str, source: str) -> None:
        worsened(Condition("transcript", view), replace(CFG, transcripts={view: source}), records, place)

    with pytest.raises(
        RecordError, match=rf"asr\.jsonl' has no text for 1 of 8 records, the first: '{records[0].uid}'"
    ):
        ask("text", str(file))
    with pytest.raises(RecordError, match=r"'whisper' has no text for 8 of 8 records"):
        ask("text", "whisper")
    with pytest.raises(RecordError, match=r"'audio' has no text for 8 of 8"):
        ask("text", "audio")
    for view in ("words", "audio"):
        with pytest.raises(ConfigError, match=rf"'{view}' is no text that the task shows \(video, audio, text\)"):
            ask(view, str(file))
    file.write_text('{"uid": "a"}\n')
    with pytest.raises(RecordError, match=r"asr\.jsonl:1: strings uid and text are required"):
        ask("text", str(file))


# settings


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"missing": ["smell"]}, r"robustness\.missing: members of .* got \['smell'\]"),
        ({"noise": "pink"}, r"robustness\.noise: one of \('white', 'babble'\); got 'pink'"),
        ({"snr": [math.inf]}, r"robustness\.snr: numbers, in dB; got \[inf\]"),
        ({"dropped": [0.0]}, r"robustness\.dropped: shares in \(0, 1\]; got \[0.0\]"),
        ({"word_errors": [1.5]}, r"robustness\.word_errors: rates in \(0, 1\]; got \[1.5\]"),
        ({"snr": [5.0, 5.0]}, r"robustness: each level once"),
        ({"missing": [], "snr": [], "dropped": [], "word_errors": []}, r"robustness: nothing gets worse"),
    ],
)
def test_a_wrong_setting_is_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        replace(CFG, **wrong)


# the command

FEW = [
    *("eval.limit=5", "eval.max_new_tokens=48", "eval.resamples=20"),
    *(
        "robustness.missing=[audio]",
        "robustness.snr=[10,0]",
        "robustness.dropped=[0.5]",
        "robustness.word_errors=[0.3]",
    ),
]


def command(run: Path, log: Path, *more: str):
    environment = {"UNDERTONE_CACHE": str(run.parent / "cache"), "OMP_NUM_THREADS": "1"}
    return call("evaluation.robustness", [f"hydra.run.dir={run}", *SIZES, *TASK, *FEW, *more], log, environment)


@pytest.mark.slow
def test_the_command_prints_one_table_and_is_done_once(run: Path, tmp_path: Path):
    shutil.copytree(run / "sft", tmp_path / "run" / "sft")
    ours = tmp_path / "run"
    first = command(ours, tmp_path / "log")
    assert first.code == 0, first.text
    names = ["clean", "missing-audio", "snr-10", "snr-0", "dropped-0.5", "words-0.3"]
    result = json.loads((ours / "eval" / "sft-robustness" / "robustness.json").read_text())
    assert list(result["conditions"]) == names and result["items"] == 5
    assert len(result["differences"]) == 5 * len(result["conditions"]["clean"])
    for words in ("mae ↓", "minus clean", "snr-10", "5 clips", "robustness.html"):
        assert words in first.text, words
    clean = read_jsonl(ours / "eval" / "sft" / "predictions.jsonl")
    for name in names[1:]:
        folder = ours / "eval" / f"sft-{name}"
        rows = read_jsonl(folder / "predictions.jsonl")
        assert len(rows) == 5 and not (folder / "media").exists()
        # what a reader is shown later is the clip itself, not a file that is gone
        assert [row["media"] for row in rows] == [row["media"] for row in clean]
    page = (ours / "eval" / "sft-robustness" / "robustness.html").read_text()
    assert "signal-to-noise ratio (dB)" in page and "snr-10" in page
    compared = compare([f"{n}={ours / 'eval' / f'sft-{n}' if n != 'clean' else ours / 'eval' / 'sft'}" for n in ("clean", "snr-0")]
                       + ["--metrics", "mae", "--resamples", "20"])  # fmt: skip
    d = next(d for d in result["differences"] if (d["condition"], d["metric"]) == ("snr-0", "mae"))
    assert f"{d['value']:+.3f} [{d['lo']:+.3f}, {d['hi']:+.3f}]" in compared

    again = command(ours, tmp_path / "log")
    assert again.code == 0 and again.text.count("done before, skipped") == 7  # clips, clean, five conditions
    babble = command(ours, tmp_path / "log", "robustness.noise=babble")
    assert babble.code == 1 and "noise: was 'white', now 'babble'" in babble.text and "Traceback" not in babble.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("robustness.metrics=[polarty]", "error: robustness.metrics: some of ['acc2_has0',"),
        ("robustness.noise=pink", "error: robustness.noise: one of"),
        ("task.views=[text]", None),
    ],
)
def test_a_mistake_ends_in_one_line(setting, message, run, tmp_path):
    shutil.copytree(run / "sft", tmp_path / "run" / "sft")
    more = [setting] if message else [setting, "robustness.missing=[audio]", "robustness.word_errors=[]"]
    outcome = command(tmp_path / "run", tmp_path / "log", *more)
    wanted = message or "error: robustness: none of the conditions changes what studio shows (text); name others"
    assert outcome.code == 1 and wanted in outcome.text and "Traceback" not in outcome.text
    assert not (tmp_path / "run" / "eval").exists()
