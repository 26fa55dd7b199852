"""The doctor finds fifty planted defects and nothing else, nothing in clean data, and counts as the processor counts."""

# ruff: noqa: RUF001  texts are garbled on purpose

import json
from collections import Counter as Tally
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from planted import Planted, dies_on_the_third, larger, plant, read_film, write_coded, write_film
from verbs import call

from evaluation.doctor.__main__ import main, read_settings
from evaluation.doctor.examine import Examination, examine
from evaluation.doctor.findings import KINDS
from evaluation.doctor.forecast import Load, Shape, forecast, memory, shape_of
from evaluation.doctor.labels import bad_labels
from evaluation.doctor.leaks import SAME_PICTURE, SAME_SOUND, Prints, _all_bands, _prints, correlation, duplicates
from evaluation.doctor.media import PRINT_RATE, clipped_share, look
from evaluation.doctor.pool import look_at_all
from evaluation.doctor.report import forecast_lines
from evaluation.doctor.texts import mojibake
from evaluation.doctor.tokens import Counter, Sampling, sampling_of
from models.load import LoraSettings, load_model
from models.processor import MediaSettings, Processor
from models.session import RunConfig, quarantine
from runtime.errors import ConfigError, RecordError, StageError
from runtime.files import read_jsonl
from tasks.base import Dataset
from tasks.record import Media, Record, read_records, write_records
from tasks.studio.task import Studio
from tasks.target import Scalar, Vector

LOAD = Load(group=8, answer=64, context=4096, memory=80e9)
RUN = RunConfig(
    "run", "", 0, max_quarantined=1.0, report_to=[], project="undertone", tags=[], table_every=10, table_rows=16
)


@pytest.fixture(scope="module")
def set_of_76(tmp_path_factory: pytest.TempPathFactory) -> tuple[Studio, Dataset]:
    """Clean clips, 60 to train on and 14 to test with."""
    task = Studio(
        name="studio", views=["video", "audio", "text"], grammar="dc", train=60, dev=2, test=14, conflict=0.4, seed=0
    )
    return task, task.dataset(tmp_path_factory.mktemp("set") / "data")


@pytest.fixture(scope="module")
def planted(set_of_76: tuple[Studio, Dataset]) -> Planted:
    return plant(set_of_76[1])


@pytest.fixture(scope="module")
def examined(planted: Planted, set_of_76: tuple[Studio, Dataset], tiny) -> Examination:
    """The damaged set, scanned by two processes."""
    return examine(planted.records, set_of_76[1].root, set_of_76[0], tiny[0], LOAD, workers=2)


def test_all_fifty_planted_defects_are_found_and_nothing_else(planted: Planted, examined: Examination) -> None:
    assert len(planted.defects) == 50
    assert Tally((f.uid, f.kind) for f in examined.findings) == Tally(planted.defects)


def test_every_kind_of_defect_is_planted_and_says_what_to_do(examined: Examination) -> None:
    assert {f.kind for f in examined.findings} == set(KINDS)
    for finding in examined.findings:
        assert len(finding.reason) > 30 and (";" in finding.reason or "," in finding.reason), finding


def test_nothing_is_found_in_the_clean_set(set_of_76: tuple[Studio, Dataset], tiny) -> None:
    task, data = set_of_76
    found = examine(data.root / "records.jsonl", data.root, task, tiny[0], LOAD, workers=1)
    assert found.findings == () and found.quarantine() == [] and found.clips == 152
    assert found.forecast is not None and found.forecast["fits"]


@pytest.mark.parametrize(("corpus", "clips"), [("ravdess", 128), ("emodb", 208)])
def test_nothing_is_found_in_real_speech(corpus: str, clips: int, real_data: Path, tmp_path: Path, capsys) -> None:
    """Seven emotions of ten speakers, who all say the same sentences."""
    command = [f"task={corpus}", f"task.data={real_data / corpus}", f"out={tmp_path}", "model=tiny_omni", "workers=1"]
    assert main(command) == 0
    said = json.loads((tmp_path / "doctor.json").read_text())
    assert said["findings"] == [] and said["clips"] == clips
    assert "nothing found" in capsys.readouterr().out


def test_a_run_leaves_out_what_the_doctor_sets_aside(
    planted: Planted, set_of_76: tuple[Studio, Dataset], examined: Examination, tmp_path: Path
) -> None:
    task, data = set_of_76
    uids = {uid for uid, kind in planted.defects if KINDS[kind][0] == "error"} & {r.uid for r in examined.records}
    of_the_file = {uid for uid, kind in planted.defects if kind in ("uid", "group")}
    rows = examined.quarantine()
    assert {row["uid"] for row in rows} == uids - of_the_file and len(rows) == 33
    assert [set(row) for row in rows] == [{"uid", "split", "reason"}] * 33
    (tmp_path / "quarantine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def never() -> Processor:
        raise AssertionError("scanned again")

    kept = quarantine(task, Dataset(examined.records, data.root), never, tmp_path, RUN)
    assert [r.uid for r in kept.records] == [r.uid for r in examined.records if r.uid not in uids - of_the_file]


# The command


def test_the_command_writes_its_files_and_its_exit_code_says_whether_there_are_errors(
    planted: Planted, tmp_path: Path, capsys
) -> None:
    assert main([f"records={planted.records}", f"out={tmp_path}", "workers=1"]) == 1
    said = json.loads((tmp_path / "doctor.json").read_text())
    assert said["counts"]["duplicate"] == 6 and said["counts"]["unreadable"] == 6 and said["forecast"] is None
    assert (
        said["quarantined"] == len(read_jsonl(tmp_path / "quarantine.jsonl")) == 29
    )  # without a task and the limits of a model
    page = (tmp_path / "doctor.html").read_text()
    assert "<script" not in page and "http" not in page.replace("https://example.org", "") and "torn.wav" in page
    printed = capsys.readouterr().out
    assert "error    silent           3  studio-train-000" in printed
    assert "no forecast: name task=T model=M" in printed
    assert max(map(len, printed.splitlines())) <= 240


def test_a_mistake_in_the_command_ends_with_one_line_and_exit_code_2(tmp_path: Path) -> None:
    outcome = call("evaluation.doctor", [f"records={tmp_path / 'R.jsonl'}"], tmp_path / "log", {})
    assert outcome.code == 2
    assert outcome.text.startswith("error: ") and outcome.text.count("\n") == 1
    assert "R.jsonl: there is no such record file" in outcome.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quick"], r"quick: settings are key=value; write records=R.jsonl"),
        (["record=R"], r"unknown key 'record' \(did you mean 'records'\?\)"),
        (["workers=2"], r"records: required and not given; write records=R.jsonl"),
        (["task=studio"], r"records, or out for those that the task writes: required and not given"),
        (["records=R", "workers=-1"], r"workers: a whole number from 0 on; got '-1'; mend the command"),
        (["records=R", "group=0"], r"group: a whole number from 1 on; got '0'; mend the command"),
        (["records=R", "model=tiny_omni"], r"model: the forecast needs the prompt of a task; got no task; add task=T"),
        (["records=R", "task=nowhere"], r"task=nowhere: .*; mend the command"),
        (["records=R", "task=studio", "task.grammar=prose"], r"task.grammar: one of .*; got 'prose'; mend the config"),
        (["records=R", "task=studio", "model=tiny_omni", "model.fps=0"], r"model: fps > 0 .*; mend the config"),
    ],
)
def test_a_bad_setting_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_settings(arguments)


def test_the_media_lie_where_the_run_says_or_beside_the_records(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text("{}")
    named = [f"records={tmp_path / 'records.jsonl'}"]
    assert read_settings(named).root == tmp_path and read_settings(named).out == tmp_path / "doctor"
    (tmp_path / "dataset.json").write_text(json.dumps({"root": "/corpus"}))
    assert read_settings(named).root == Path("/corpus")
    assert read_settings([*named, "root=/elsewhere"]).root == Path("/elsewhere")


def test_a_task_without_records_writes_them_first_and_a_run_takes_them_over(tmp_path: Path) -> None:
    small = ["task=studio", "task.train=2", "task.dev=0", "task.test=1", "model=tiny_omni"]
    asked = read_settings([*small, f"out={tmp_path / 'run' / 'data'}"])
    assert asked.root == asked.out == tmp_path / "run" / "data" and len(read_records(asked.records)) == 3
    with pytest.raises(ConfigError, match=r"is the data folder of a run, .*; name task and model, so that"):
        read_settings([f"records={asked.records}", f"out={asked.out}"])
    (tmp_path / "run" / "sft").mkdir()
    (tmp_path / "run" / "sft" / "stage.json").write_text("{}")
    with pytest.raises(StageError, match=r"belongs to a run that has begun \(sft\), .*; choose another out"):
        read_settings([*small, f"out={asked.out}"])
    assert (
        read_settings([f"records={asked.records}"]).out == asked.out / "doctor"
    )  # beside it, a begun run is looked at


@pytest.mark.parametrize(
    ("content", "message"), [("", "it is empty"), ("[1]\n", "a record is a JSON object"), ("{", "not JSON")]
)
def test_a_file_without_a_record_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "R.jsonl").write_text(content)
    with pytest.raises(RecordError, match=rf"R.jsonl: no line of it is a record; .*{message}"):
        examine(tmp_path / "R.jsonl", tmp_path, None, None, None, workers=1)


def test_a_text_model_that_is_shown_media_is_refused(set_of_76, tiny) -> None:
    task, data = set_of_76
    text = replace(tiny[0], family="text", name="words")
    with pytest.raises(ConfigError, match=r"model words: it reads text alone, and the prompt shows audio, video; set"):
        examine(data.root / "records.jsonl", data.root, task, text, LOAD, workers=1)


def test_a_model_that_is_nowhere_is_named_with_what_to_do(set_of_76, tiny, tmp_path: Path) -> None:
    task, data = set_of_76
    away = replace(tiny[0], source=str(tmp_path / "away" / "model"), tiny=None)
    with pytest.raises(
        ConfigError, match=r"model tiny_omni: .* Fetch .*away/model first, or name a folder with model\."
    ):
        examine(data.root / "records.jsonl", data.root, task, away, LOAD, workers=1)


def test_a_file_that_kills_its_decoder_is_named_and_the_others_are_looked_at() -> None:
    records = [
        Record(uid=f"r{i}", task="t", split="train", group="g", views={"text": "x"}, target=Scalar(0, -1, 1))
        for i in range(5)
    ]
    found = look_at_all(records, dies_on_the_third, workers=2)
    assert list(found) == ["r0", "r1", "r2", "r3", "r4"]
    assert [(uid, f.kind) for uid, one in found.items() for f in one.findings] == [("r2", "unreadable")]
    assert "bring the decoder down" in found["r2"].findings[0].reason


# Copies


CODERS = {
    "mp3 at 32 kbit/s": ("copy.mp3", "libmp3lame", 16_000, 32_000),
    "aac at 48 kbit/s": ("copy.m4a", "aac", 16_000, 48_000),
    "opus at 16 kbit/s": ("copy.ogg", "libopus", 16_000, 16_000),
    "aac of 8 kHz": ("copy8.m4a", "aac", 8_000, 24_000),
}


def print_of(path: Path) -> np.ndarray:
    record = Record(
        uid="a", task="t", split="train", group="g", views={"a": Media("audio", path.name)}, target=Scalar(0, -1, 1)
    )
    sound = _prints(look(record, path.parent, None)).sound
    assert sound is not None
    return sound


@pytest.mark.parametrize("coder", CODERS)
def test_a_sound_is_known_again_after_a_coder(coder: str, set_of_76, tmp_path: Path) -> None:
    name, codec, rate, bits = CODERS[coder]
    for record in set_of_76[1].split("test")[:4]:
        source = set_of_76[1].root / record.views["audio"].path
        wave = soundfile.read(source, dtype="int16")[0]
        write_coded(tmp_path / name, np.ascontiguousarray(wave[:: 16_000 // rate]), codec, rate, bits)
        assert correlation(print_of(source), print_of(tmp_path / name)) > SAME_SOUND


def test_a_sound_is_known_again_at_another_level_with_noise_or_a_piece_cut_off(set_of_76, tmp_path: Path) -> None:
    source = set_of_76[1].root / set_of_76[1].split("test")[0].views["audio"].path
    wave = soundfile.read(source)[0]
    noise = np.random.default_rng(0).normal(0, 0.1 * wave.std(), len(wave))
    for changed in (0.1 * wave, -wave, wave + noise, wave[800:]):
        soundfile.write(tmp_path / "changed.wav", changed, 16_000, subtype="PCM_16")
        assert correlation(print_of(source), print_of(tmp_path / "changed.wav")) > SAME_SOUND


def test_no_two_clips_of_the_studio_pass_for_one(set_of_76) -> None:
    """All speakers and sentences come from one synthesiser, so nothing natural is as much alike."""
    _, data = set_of_76
    prints = [print_of(data.root / r.views["audio"].path) for r in data.records[:24]]
    alike = [correlation(a, b) for i, a in enumerate(prints) for b in prints[:i]]
    assert len(alike) == 276 and max(alike) < SAME_SOUND - 0.05


def test_mains_hum_and_an_offset_do_not_make_strangers_alike(set_of_76, tmp_path: Path) -> None:
    hum = 0.3 + 0.2 * np.sin(2 * np.pi * 50 * np.arange(19_200) / 16_000)
    prints = []
    for record in set_of_76[1].split("test")[:2]:
        wave = soundfile.read(set_of_76[1].root / record.views["audio"].path)[0]
        soundfile.write(tmp_path / f"{record.uid}.wav", 0.2 * wave + hum, 16_000, subtype="PCM_16")
        prints.append(print_of(tmp_path / f"{record.uid}.wav"))
    assert correlation(*prints) < SAME_SOUND - 0.05


@given(st.integers(0, 2**32 - 1), st.integers(40, 400), st.integers(40, 400))
def test_bands_never_rule_out_what_correlates(seed: int, one: int, other: int) -> None:
    """Cauchy and Schwarz, on pieces of one noise that overlap more or less."""
    rng = np.random.default_rng(seed)
    noise = np.cumsum(rng.normal(size=900))
    start = int(rng.integers(0, 400))
    waves = [np.round(20 * noise[:one]).astype(np.int8), np.round(20 * noise[start : start + other]).astype(np.int8)]
    waves = [wave if wave.any() else np.ones_like(wave) for wave in waves]

    records = [
        Record(uid=u, task="t", split="train", group="g", views={"a": "x"}, target=Scalar(0, -1, 1)) for u in "01"
    ]
    bands = _all_bands(records, {uid: Prints(wave, None) for uid, wave in zip("01", waves, strict=True)})
    assert float(bands[0] @ bands[1]) >= correlation(*waves) - 1e-4


def spanned(uid: str, split: str, span: tuple[float, float] | None, path: str = "long.wav") -> Record:
    views = {"audio": Media("audio", path, span)}
    return Record(uid=uid, task="t", split=split, group=uid, views=views, target=Scalar(0, -1, 1))


def found_duplicates(records: list[Record], root: Path) -> dict[str | None, str]:
    looks = {record.uid: look(record, root, None) for record in records}
    return {f.uid: f.reason for f in duplicates(records, looks, None)}


def test_pieces_of_one_file_are_doubles_only_where_they_overlap(set_of_76, tmp_path: Path) -> None:
    waves = [soundfile.read(set_of_76[1].root / r.views["audio"].path)[0] for r in set_of_76[1].records[:4]]
    soundfile.write(tmp_path / "long.wav", np.concatenate(waves), 16_000)
    records = [spanned("a", "train", (0.0, 1.2)), spanned("b", "test", (1.2, 2.4)), spanned("c", "dev", (2.4, 3.0))]
    assert found_duplicates(records, tmp_path) == {}
    overlapping = spanned("d", "test", (2.5, 4.0))  # 0.5 of the 0.6 s of c
    found = found_duplicates([*records, overlapping], tmp_path)
    assert set(found) == {"c"}
    assert found["c"] == (
        "shows long.wav, which is byte for byte a clip of 'd' in split test; leave it out of dev, or that one out of test"
    )


def test_the_copy_stays_in_the_later_split_and_copies_in_one_split_are_none(set_of_76, tmp_path: Path) -> None:
    source = (set_of_76[1].root / set_of_76[1].records[0].views["audio"].path).read_bytes()
    (tmp_path / "long.wav").write_bytes(source)
    records = [
        spanned("t", "test", None),
        spanned("d", "dev", None),
        spanned("a", "train", None),
        spanned("b", "train", None),
    ]
    assert set(found_duplicates(records, tmp_path)) == {"d", "a", "b"}
    assert found_duplicates(records[2:], tmp_path) == {}


def test_a_film_with_the_same_sound_under_other_pictures_is_no_double(set_of_76, tmp_path: Path) -> None:
    _, data = set_of_76
    (images, sound), (others, _) = (read_film(data.root / r.views["video"].path) for r in data.split("test")[:2])
    films = {
        "original.mp4": (images, "mpeg4", 1),
        "again.mp4": (images, "libx264", 3),
        "other.mp4": (others, "mpeg4", 1),
    }
    for name, (frames, codec, times) in films.items():
        write_film(tmp_path / name, larger(frames, times), sound, codec=codec)

    def film(uid: str, split: str, name: str) -> Record:
        return replace(spanned(uid, split, None), views={"video": Media("video", name)})

    test = film("test", "test", "original.mp4")
    found = found_duplicates([test, film("copy", "train", "again.mp4"), film("other", "train", "other.mp4")], tmp_path)
    assert set(found) == {"copy"} and found["copy"].startswith("sounds and looks like 'test' in split test")


def test_faces_of_different_speakers_are_further_apart_than_codings_of_one(set_of_76) -> None:
    _, data = set_of_76
    some = [next(r for r in data.records if r.group == group) for group in sorted({r.group for r in data.records})]
    films = [_prints(look(r, data.root, ("video",))).picture.astype(float) for r in some]  # type: ignore[union-attr]
    apart = [float(np.sqrt(np.square(a - b).mean())) for i, a in enumerate(films) for b in films[:i]]
    assert min(apart) > SAME_PICTURE


# Sound


def test_clipping_is_told_from_loudness() -> None:
    time = np.arange(16_000) / 16_000
    loud = 0.99 * np.sin(2 * np.pi * 220 * time)
    assert clipped_share(loud) < 1e-3
    assert clipped_share(np.clip(2 * loud, -1, 1)) > 0.5  # |2 sin| > 1 for two thirds of a period
    assert clipped_share(0.1 * np.clip(2 * loud, -1, 1)) > 0.5  # turned down afterwards
    assert clipped_share(np.random.default_rng(0).normal(0, 0.1, 16_000)) < 1e-3


# Texts and labels


@pytest.mark.parametrize("text", ["cafÃ©", "itâ€™s", "ðŸ˜€ fun", "Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "Â£5", "lost \ufffd", "bell\x92s"])
def test_garbled_text_is_told(text: str) -> None:
    assert mojibake(text) is not None


@pytest.mark.parametrize(
    "text",
    [
        "café",
        "it’s “fine” … – 5 €",
        "« voilà\xa0» et « beauté\xa0»",
        "so ein Spaß“ und CAFÉ… ÄÖÜ",
        "naïve Ångström",
        "привет, 你好 😀",
        "one\x85two",
    ],
)
def test_text_with_accents_is_left_alone(text: str) -> None:
    assert mojibake(text) is None


@given(st.text(alphabet="äöüßéèàçñÆøå€’“”…–", min_size=1, max_size=6))
def test_what_is_garbled_and_put_right_is_clean(text: str) -> None:
    garbled = text.encode("utf-8").decode("cp1252", errors="replace")
    if "\ufffd" not in garbled:
        assert mojibake(f"so {garbled} it is") is not None


def labelled(*xs: float) -> list[Record]:
    return [
        Record(uid=str(i), task="t", split="train", group="g", views={"text": "x"}, target=Scalar(x, -100, 100))
        for i, x in enumerate(xs)
    ]


def test_an_outlier_is_far_away_in_robust_deviations() -> None:
    # -9..9: median 0, absolute deviations 0, 1, 1, ..., 9, 9 with the median 5 once 38 is among them: 5 x 1.4826 = 7.413
    usual = [float(x) for x in range(-9, 10)]
    assert [f.uid for f in bad_labels(labelled(*usual, 38.0))] == ["19"]  # (38 - 0.5) / 7.413 = 5.06
    assert [f.uid for f in bad_labels(labelled(*usual, 37.0))] == []  # 4.92
    assert [f.uid for f in bad_labels(labelled(*usual[1:], 99.0))] == []  # 19 labels are too few


def test_labels_that_are_mostly_equal_have_their_mean_deviation() -> None:
    # 20 zeros and one 3: deviation 1.2533 x 3 / 21 = 0.179, so 3 lies 16.8 of them away
    assert [f.uid for f in bad_labels(labelled(*[0.0] * 20, 3.0))] == ["20"]
    assert list(bad_labels(labelled(*[1.0] * 30))) == []


def test_each_number_of_a_vector_is_held_against_its_own_column_and_raters() -> None:
    target = Vector(("joy", "fear"), (0.5, None), 0, 10)
    raters = (("a", "joy", 4.0), ("b", "joy", 5.0), ("a", "fear", 9.0))
    record = Record(uid="v", task="t", split="train", group="g", views={"text": "x"}, target=target, raters=raters)
    (finding,) = bad_labels([record])  # a thirtieth of the scale, 0.33, is allowed beyond the raters
    assert (finding.kind, finding.reason) == (
        "label",
        "target.joy: 0.5, and its 2 raters said 4 to 5; mend the label, or the ratings",
    )
    near = replace(target, x=(3.7, None))
    assert list(bad_labels([replace(record, target=near)])) == []


# Tokens and memory


def odd_clips(folder: Path, data: Dataset) -> dict[str, Media]:
    """Clips of every kind, length, rate and size."""
    images, sound = read_film(data.root / data.records[0].views["video"].path)
    wave = soundfile.read(data.root / data.records[0].views["audio"].path)[0]
    soundfile.write(folder / "44k.wav", np.tile(wave, 3)[: 44_100 + 77], 44_100)
    soundfile.write(folder / "8k.wav", np.tile(wave, 2)[:30_001], 8_000)
    write_film(folder / "mute.mp4", images, None, fps=25)
    write_film(folder / "wide.mp4", larger(images, 5)[:, :112], sound, fps=3)
    write_film(folder / "long.mp4", np.tile(images, (9, 1, 1, 1)), np.tile(sound, 9), fps=5)
    Image.fromarray(larger(images[:1], 7)[0][:300]).save(folder / "face.png")
    kinds = {"wav": "audio", "mp4": "video", "png": "image"}
    return {p.name: Media(kinds[p.suffix[1:]], p.name) for p in sorted(folder.iterdir())}  # type: ignore[arg-type]


@pytest.mark.parametrize("in_video", [False, True])
def test_tokens_are_those_that_the_processor_makes(in_video: bool, set_of_76, tiny, tmp_path: Path) -> None:
    real = tiny[2].processor
    media = odd_clips(tmp_path, set_of_76[1])
    pairs = [(name,) for name in media] + [("44k.wav", "wide.mp4"), ("mute.mp4", "8k.wav"), ("face.png", "8k.wav")]
    for sampling in (Sampling(4.0, 8, 6272, 200_704), Sampling(1.5, 6, 3136, 25_088)):
        size = {"shortest_edge": sampling.shortest_edge, "longest_edge": sampling.longest_edge}
        processor = Processor(real, MediaSettings(in_video, sampling.fps, sampling.max_frames, size))
        counter = Counter(processor)
        for names in pairs:
            views = {f"view{i}": media[name] for i, name in enumerate(names)}
            record = Record(uid="a", task="t", split="train", group="g", views=views, target=Scalar(0, -1, 1))
            clips = look(record, tmp_path, None).clips
            parts = [{"type": m.kind, "path": str(tmp_path / m.path), "span": m.span} for m in views.values()]
            messages = [{"role": "user", "content": [*parts, {"type": "text", "text": "How? 3.5 Ünö"}]}]
            prompt = counter.prompt("a", messages, [clips[name] for name in views])
            assert counter.tokens(prompt, sampling) == len(processor.encode(messages).ids), names
            encoded = processor.encode(messages)
            patches = sum(
                encoded.media[k].shape[0] for k in ("pixel_values", "pixel_values_videos") if k in encoded.media
            )
            assert counter.patches(prompt, sampling) == patches
            assert (
                not patches
                or counter.pixels
                == encoded.media.get("pixel_values", encoded.media.get("pixel_values_videos")).shape[1]
            )  # type: ignore[union-attr]


def test_memory_is_the_sum_that_the_docstring_states() -> None:
    shape = Shape(
        1000, 100, adapter=False, layers=2, per_token=10, cached=4, vocabulary=50, per_patch=3, bytes=2, positions=9
    )
    load = Load(group=2, answer=3, context=0, memory=0)
    # T = 5 + 2 x 3 = 11; weights 1000 x 2; training 100 x 3 x 2; activations 11 x 2 x 10 x 2; logits 6 x 50 x 8; media 7 x (12 x 4
    # + 3 x 2); cache 11 x 2 x 4 x 2; peak 2000 + 600 + 378 + (440 + 2400)
    assert memory(shape, load, tokens=5, patches=7, pixels=12) == {
        "weights": 2000,
        "training": 600,
        "activations": 440,
        "logits": 2400,
        "media": 378,
        "cache": 176,
        "peak": 5818,
    }
    assert memory(replace(shape, adapter=True), load, 5, 7, 12)["training"] == 1600
    cached = memory(replace(shape, cached=4000), load, 5, 7, 12)
    assert cached["peak"] == 2000 + 600 + 378 + 176_000


def test_the_shape_of_a_model_is_that_of_its_weights(tiny) -> None:
    cfg, model, _ = tiny
    shape = shape_of(cfg)
    assert shape.parameters == shape.trained == sum(p.numel() for p in model.parameters())
    assert (shape.layers, shape.bytes, shape.vocabulary) == (2, 4, model.config.text_config.vocab_size)
    # width 64, 2 heads and 1 key head of 32, MLP 192: 4 x 64 + 2 x 64 + 2 x 32 + 4 x 192
    assert shape.per_token == 1216 and shape.cached == 64
    lora = replace(cfg, lora=LoraSettings(4, 8, 0.0, r".*\.(q_proj|v_proj)"), freeze_towers=True)
    adapted = load_model(lora, Path(model.config.name_or_path), train=True)
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert shape_of(lora).trained == trained > 0 and shape_of(lora).per_patch == 0 < shape.per_patch
    frozen = replace(cfg, freeze_towers=True, dtype="bfloat16")
    towers = sum(p.numel() for t in (model.model.audio_tower, model.model.visual) for p in t.parameters())
    assert shape_of(frozen).trained == shape.trained - towers and shape_of(frozen).bytes == 2


def test_what_is_suggested_fits_when_it_is_really_encoded(set_of_76, tiny, tmp_path: Path) -> None:
    task, data = set_of_76
    cfg, _, processor = tiny
    sampling = sampling_of(cfg)
    media = odd_clips(tmp_path, data)
    views = {"video": media["long.mp4"], "text": "so it is"}
    record = Record(uid="a", task="t", split="train", group="g", views=views, target=Scalar(0, -3, 3))
    counter, messages = Counter(processor), task.prompt(record, tmp_path)
    prompt = counter.prompt("a", messages, [look(record, tmp_path, None).clips["video"]])
    shape = shape_of(cfg)
    whole = forecast(counter, [prompt], shape, sampling, LOAD)
    most = whole["tokens"]["most"]
    assert whole["fits"] and whole["suggestion"]["tokens"] == most and whole["suggestion"]["fps"] == sampling.fps
    tight = forecast(counter, [prompt], shape, sampling, replace(LOAD, context=LOAD.answer + most - 1))
    best = tight["suggestion"]
    assert not tight["fits"] and best["tokens"] < most
    size = {"shortest_edge": sampling.shortest_edge, "longest_edge": best["longest_edge"]}
    settings = MediaSettings(cfg.audio_in_video, best["fps"], best["max_frames"], size)
    assert len(Processor(processor.processor, settings).encode(messages).ids) == best["tokens"]
    assert forecast(counter, [prompt], shape, sampling, replace(LOAD, memory=1.0))["suggestion"] is None
    found = Examination((record,), (), {"model": "tiny_omni", **tight}, 1, 1.0, 1.0)
    assert f"model.fps={best['fps']:g} model.max_frames={best['max_frames']}" in forecast_lines(found)[-1]


def test_prints_are_small_and_workers_are_given_something_picklable(set_of_76) -> None:
    _, data = set_of_76
    one = partial(look, root=data.root, views=None)(data.records[0])
    assert set(one.clips) == {"audio", "video"} and one.findings == ()
    assert len(one.clips["audio"].sound.print) == round(1.2 * PRINT_RATE)  # type: ignore[union-attr]
    assert len(one.clips["video"].picture.print) == 4 * 8 * 8  # type: ignore[union-attr]


def test_a_record_file_is_never_changed(set_of_76, tmp_path: Path) -> None:
    _, data = set_of_76
    write_records(tmp_path / "R.jsonl", data.records[:2])
    before = (tmp_path / "R.jsonl").read_bytes()
    assert main([f"records={tmp_path / 'R.jsonl'}", f"root={data.root}", "workers=1"]) == 0
    assert (tmp_path / "R.jsonl").read_bytes() == before and torch.get_num_threads() > 0
    assert sorted(p.name for p in (tmp_path / "doctor").iterdir()) == ["doctor.html", "doctor.json", "quarantine.jsonl"]
