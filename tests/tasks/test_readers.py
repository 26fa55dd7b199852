"""Readers of the public formats: tiny hand-written corpora, broken rows, and the counts of the real ones where they exist."""

import csv
import shutil
import statistics
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_corpora import EMODB, RAVDESS, TEXTS, write

from runtime.errors import ConfigError, MediaError, RecordError
from runtime.files import read_jsonl
from tasks.readers import emobank, emodb, mosi, ravdess, vader
from tasks.readers.table import text_group
from tasks.record import Media, Record, read_records
from tasks.sentiment.task import Sentiment
from tasks.speech_emotion.task import SpeechEmotion
from tasks.target import Scalar, Space, Vector

EMODB_SPACE = Space(tuple(emodb.VALENCE), tuple(emodb.VALENCE.values()))
RAVDESS_SPACE = Space(tuple(ravdess.VALENCE), tuple(ravdess.VALENCE.values()))
SPEAKERS = {f"{n:02d}": "train" for n in range(1, 25)}


def read_emodb(root: Path) -> list[Record]:
    return emodb.read(root, task="t", space=EMODB_SPACE, split_of=SPEAKERS)


def read_ravdess(root: Path) -> list[Record]:
    return ravdess.read(root, task="t", space=RAVDESS_SPACE, split_of=SPEAKERS)


def read_vader(root: Path) -> list[Record]:
    return vader.read(root, "vader_tweets", task="t", neutral=0.5)


def read_mosi(root: Path, corpus: str = "mosi", language: str = "en") -> list[Record]:
    return mosi.read(root, corpus, task="t", neutral=0.0, language=language, group="video")


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    write(path, text.replace(old, new, 1))


# --- what a well-formed row becomes ---


def test_emodb_is_read_from_the_file_names(corpora: Path) -> None:
    found = {r.uid: r for r in read_emodb(corpora / "emodb")}
    assert len(found) == len(EMODB)
    clip = found["t-10b10Fa"]
    assert clip.views == {"audio": Media("audio", "wav/10b10Fa.wav"), "text": emodb.SENTENCES["b10"]}
    assert (clip.target.render(), clip.target.coarse(), clip.group) == ("happiness", "positive", "speaker-10")
    assert clip.meta == {"gender": "male", "sentence": "b10"}


def test_emodb_may_lie_in_the_folder_itself(corpora: Path) -> None:
    shutil.move(corpora / "emodb" / "wav", corpora / "flat")
    assert read_emodb(corpora / "flat")[0].views["audio"] == Media("audio", "03a01Wa.wav")


def test_all_seven_emotions_of_emodb_have_a_letter(tmp_path: Path) -> None:
    for letter in "WLEAFTN":
        write(tmp_path / f"08a01{letter}a.wav", b"")
    labels = [r.target.render() for r in read_emodb(tmp_path)]  # in the order A E F L N T W of the names
    assert labels == ["fear", "disgust", "happiness", "boredom", "neutral", "sadness", "anger"]


def test_emotions_outside_the_space_are_left_out(corpora: Path) -> None:
    space = Space(("happiness", "anger"), ("positive", "negative"))
    found = emodb.read(corpora / "emodb", task="t", space=space, split_of=SPEAKERS)
    assert Counter(r.target.render() for r in found) == {"anger": 3, "happiness": 3}


def test_ravdess_is_read_from_the_file_names(corpora: Path) -> None:
    found = {r.uid: r for r in read_ravdess(corpora / "ravdess")}
    assert len(found) == len(RAVDESS)
    clip = found["t-03-01-03-02-02-01-02"]
    assert clip.views["text"] == "Dogs are sitting by the door."
    assert clip.views["audio"] == Media("audio", "Actor_02/03-01-03-02-02-01-02.wav")
    assert (clip.target.render(), clip.target.coarse(), clip.group) == ("happy", "positive", "actor-02")
    assert clip.meta == {"gender": "female", "channel": "speech", "intensity": "strong"}


def test_vader_keeps_every_rating_and_takes_their_mean(corpora: Path) -> None:
    found = read_vader(corpora / "vader_icwsm2014")
    assert [r.target.x for r in found if isinstance(r.target, Scalar)] == [statistics.mean(r) for r in TEXTS.values()]
    assert found[2].views == {"text": "best soup of my life & a smile"}
    assert found[2].raters == (("1", "x", 4.0), ("2", "x", 3.0), ("3", "x", 4.0), ("4", "x", 4.0))
    assert found[0].group == found[1].group  # the same text but for case and punctuation
    assert found[3].target.render() == "0.0"  # the GroundTruth file says 0.25


def test_emobank_gives_valence_or_all_three_axes(corpora: Path) -> None:
    scalar = emobank.read(corpora / "emobank", task="t", neutral=0.25)
    vector = emobank.read(corpora / "emobank", task="t", neutral=0.25, vector=True)
    assert (
        scalar[1].views == {"text": "They cheered, and cheered again."}
        and scalar[2].views["text"] == 'He said "never", and left.'
    )
    assert scalar[1].target == Scalar(4.2, 1, 5, 0.25)
    assert vector[1].target == Vector(("valence", "arousal", "dominance"), (4.2, 3.9, 3.3), 1, 5, 3)
    assert vector[2].target.coarse() == "arousal"  # 1.8, 3.4, 2.5 on a scale whose middle is 3


def test_mosi_transcripts_cut_the_id_at_the_last_underscore(corpora: Path) -> None:
    found = read_mosi(corpora / "cmu_mosi")
    assert [r.group for r in found][:3] == ["video-ab_c1", "video-ab_c1", "video-dE-9"]
    assert found[-1].split == "dev" and found[-1].group == "video-q_q"
    assert [r.views["text"] for r in found][:1] == ["I LIKED IT"]
    assert [r.views["text"] for r in read_mosi(corpora / "cmu_mosi", language="zh")][:1] == ["我喜欢"]


def test_mmsa_tables_point_at_the_clips_that_are_there(corpora: Path) -> None:
    with_clips, without = read_mosi(corpora / "cmu_mosei", "mosei"), read_mosi(corpora / "ch_sims", "sims", "zh")
    assert with_clips[0].views == {
        "text": "so I think it works",
        "video": Media("video", "Raw/v_1/0001.mp4"),
        "audio": Media("audio", "Raw/v_1/0001.mp4"),
    }
    assert [set(r.views) for r in without] == [{"text"}] * 5
    assert [r.split for r in without] == ["train", "train", "dev", "test", "test"]
    assert without[0].meta == {"video": "v_1", "label_T": 0.6, "label_A": 0.0, "label_V": -0.8}
    assert without[2].meta == {"video": "v_2"}  # empty cells are no labels


def test_a_byte_order_mark_is_no_column_name(corpora: Path) -> None:
    path = corpora / "ch_sims" / "label.csv"
    write(path, b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_mosi(corpora / "ch_sims", "sims", "zh")) == 5


def test_groups_of_texts_ignore_case_blanks_and_punctuation() -> None:
    assert text_group("Well, NO!") == text_group("well no") != text_group("well nope")


# --- what a malformed row says ---

TABLES = {
    "tweets": ("vader_icwsm2014/tweets_anonDataRatings.txt", read_vader),
    "truth": ("vader_icwsm2014/tweets_GroundTruth.txt", read_vader),
    "emobank": ("emobank/emobank.csv", lambda root: emobank.read(root, task="t", neutral=0.25)),
    "mosi": ("cmu_mosi/label.csv", read_mosi),
    "mosei": ("cmu_mosei/label.csv", lambda root: read_mosi(root, "mosei")),
}


@pytest.mark.parametrize(
    ("table", "old", "new", "line", "message"),
    [
        ("tweets", "\t0.5\t", "\t", 1, "row: 4 tab-separated cells are required; got 3"),
        ("tweets", "[-2, -1,", "[-2, -9,", 1, "ratings: a list of integers in -4..4 is required"),
        ("tweets", "[-2, -1,", "[-2, 0.5,", 1, "ratings: a list of integers in -4..4 is required"),
        ("tweets", "[-2, -1, -2, -1]", "[]", 1, "ratings: a list of integers in -4..4 is required; got '[]'"),
        ("tweets", "[-2, -1, -2, -1]", "so", 1, "ratings: a list of integers in -4..4 is required; got 'so'"),
        ("tweets", "-1.5\t", "1.5\t", 1, "mean: the mean of the list is -1.5000; got '1.5'"),
        ("tweets", "-1.5\t", "low\t", 1, "mean: a number in [-4, 4] is required; got 'low'"),
        ("tweets", "10\t", "77\t", 10, "id: an id of the GroundTruth file is required; got '77'"),
        ("truth", "rain again, and no umbrella", " ", 1, "text: a non-empty text is required"),
        ("truth", "\r\n10\t-2.25\tthey broke the window", "\r\n10\t-2.25\ta\r\n11\t0\tb", 11, "id: an id of the anonDataRatings"),
        ("emobank", "a2,train,4.2", "a2,train,5.2", 3, "V: a number in [1, 5] is required; got '5.2'"),
        ("emobank", "a2,train,4.2,", "a2,train,", 3, "row: 6 cells are required; got 5"),
        ("emobank", "a2,train", "a2,valid", 3, "split: one of ('train', 'dev', 'test'); got 'valid'"),
        ("emobank", "The door was open.", " ", 2, "text: a non-empty text is required"),
        ("emobank", "V,A,D", "V,A,E", 1, "header: column ['D'] is required"),
        ("mosi", "1.8,train", "3.2,train", 2, "label: a number in [-3, 3] is required; got '3.2'"),
        ("mosi", "1.8,train", "nan,train", 2, "label: a number in [-3, 3] is required; got 'nan'"),
        ("mosi", "zz_10", "zz10", 5, "id: a video and a segment are required; got '_zz10'"),
        ("mosi", ",valid", ",dev", 8, "split: one of ('train', 'valid', 'test'); got 'dev'"),
        ("mosei", "Positive,train", "Positive,fit", 2, "mode: one of ('train', 'valid', 'test'); got 'fit'"),
        ("mosei", "v_1,0002", "v_1,0007", 3, "clip_id: there is no such clip; got 'Raw/v_1/0007.mp4'"),
        ("mosei", "so I think it works", "", 2, "text: a non-empty text is required"),
    ],
)  # fmt: skip
def test_a_malformed_row_is_refused_with_place_and_remedy(
    corpora: Path, table: str, old: str, new: str, line: int, message: str
) -> None:
    place, read = TABLES[table]
    path = corpora / place
    write(path, path.read_bytes().replace(old.encode(), new.encode(), 1))
    with pytest.raises(RecordError) as caught:
        read(path.parent)
    text = str(caught.value)
    assert text.startswith(f"{path}:{line}: {message}")
    assert any(word in text.rpartition(";")[2] for word in ("mend", "pair", "restore"))


@pytest.mark.parametrize(
    ("read", "name", "message"),
    [
        (read_emodb, "03a01Xa.wav", "file name: speaker (2 digits), one of a01/a02"),
        (read_emodb, "03a99Wa.wav", "file name: speaker (2 digits), one of a01/a02"),
        (read_emodb, "3a01Wa.wav", "file name: speaker (2 digits), one of a01/a02"),
        (read_emodb, "77a01Wa.wav", "speaker: one of ['01', "),
        (read_ravdess, "03-01-09-01-01-01-01.wav", "emotion: one of ['01', '02', '03', '04', '05', '06', '07', '08']; got '09'"),
        (read_ravdess, "03-01-01-01-01-01-25.wav", "actor: one of ['01', "),
        (read_ravdess, "03-01-01-01-01-01.wav", "file name: modality-channel-emotion-intensity-sentence-repetition-actor"),
    ],
)  # fmt: skip
def test_a_foreign_file_name_is_refused(tmp_path: Path, read, name: str, message: str) -> None:
    write(tmp_path / name, b"")
    with pytest.raises(RecordError) as caught:
        read(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / name}: {message}")
    assert "rename or remove the file" in str(caught.value) or "list the speaker" in str(caught.value)


def test_a_speaker_of_no_split_is_named(corpora: Path) -> None:
    with pytest.raises(
        RecordError, match=r"03a01Wa\.wav: speaker: one of \['08'\]; got '03'; list the speaker in task\.train"
    ):
        emodb.read(corpora / "emodb", task="t", space=EMODB_SPACE, split_of={"08": "train"})
    with pytest.raises(RecordError, match=r"actor: one of \['08'\]; got '01'; list the actor in task\.train"):
        ravdess.read(corpora / "ravdess", task="t", space=RAVDESS_SPACE, split_of={"08": "train"})


@pytest.mark.parametrize("read", [read_emodb, read_ravdess, read_vader, read_mosi])
def test_an_absent_corpus_says_which_setting_to_mend(tmp_path: Path, read) -> None:
    with pytest.raises(RecordError, match=r"set UNDERTONE_DATA or task\.data to the folder of"):
        read(tmp_path)


def test_a_table_in_another_encoding_is_refused(corpora: Path) -> None:
    path = corpora / "ch_sims" / "label.csv"
    write(path, path.read_text(encoding="utf-8").encode("gbk"))
    with pytest.raises(RecordError, match=r"label\.csv: byte 78 is not UTF-8; save the file as UTF-8"):
        read_mosi(corpora / "ch_sims", "sims", "zh")


@pytest.mark.parametrize(("folder", "corpus", "language"), [("cmu_mosi", "mosi", "de"), ("cmu_mosei", "mosei", "zh")])
def test_a_language_that_is_not_there_is_refused(corpora: Path, folder: str, corpus: str, language: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"task\.language: .*label\.csv has .*'en'.*; got '{language}'; mend the config"
    ):
        read_mosi(corpora / folder, corpus, language)


# --- the two tasks on top ---


def sentiment(corpus: str, data: Path, **changes) -> Sentiment:
    settings = {
        "name": corpus,
        "views": ["text"],
        "grammar": "dc",
        "corpus": corpus,
        "data": str(data),
        "neutral": 0.0,
        "language": "zh" if corpus == "sims" else "en",
        "group": "video",
        "dev_share": 0.2,
        "test_share": 0.3,
        "seed": 0,
        "limit": {"train": None, "dev": None, "test": None},
        "scale": None,
    }
    return Sentiment(**(settings | changes))


def speech_emotion(**changes) -> SpeechEmotion:
    settings = {
        "name": "emodb",
        "views": ["audio"],
        "grammar": "dc",
        "corpus": "emodb",
        "data": "nowhere",
        "labels": ["neutral", "anger", "sadness"],
        "train": ["03"],
        "dev": ["11"],
        "test": ["10"],
        "speeds": [],
    }
    return SpeechEmotion(**(settings | changes))


def test_a_split_that_is_not_shipped_is_cut_in_whole_groups(corpora: Path, tmp_path: Path) -> None:
    sentiment("vader_tweets", corpora / "vader_icwsm2014").prepare(tmp_path)
    found = read_records(tmp_path / "records.jsonl")
    groups = {s: {r.group for r in found if r.split == s} for s in ("train", "dev", "test")}
    assert {s: len(g) for s, g in groups.items()} == {"train": 4, "dev": 2, "test": 3}  # of 9: round(1.8), round(2.7)
    assert len(found) == len(TEXTS)


def test_another_seed_cuts_elsewhere(corpora: Path, tmp_path: Path) -> None:
    cuts = set()
    for seed in range(4):
        sentiment("vader_tweets", corpora / "vader_icwsm2014", seed=seed).prepare(tmp_path / str(seed))
        cuts.add(tuple(r.split for r in read_records(tmp_path / str(seed) / "records.jsonl")))
    assert len(cuts) > 1


def test_shipped_splits_stay_as_they_are(corpora: Path, tmp_path: Path) -> None:
    sentiment("sims", corpora / "ch_sims").prepare(tmp_path)
    assert Counter(r.split for r in read_records(tmp_path / "records.jsonl")) == {"train": 2, "dev": 1, "test": 2}


def test_a_text_in_two_splits_leaves_train_and_is_listed(corpora: Path, tmp_path: Path) -> None:
    sentiment("emobank", corpora / "emobank").prepare(tmp_path)
    left_out = read_jsonl(tmp_path / "left_out.jsonl")
    assert {"uid": "emobank-a4", "reason": "its text also occurs in split dev"} in left_out
    uids = {r.uid for r in read_records(tmp_path / "records.jsonl")}
    assert "emobank-a7" in uids and len(uids) + len(left_out) == 8


def test_limits_are_drawn_from_the_whole_split_and_listed(corpora: Path, tmp_path: Path) -> None:
    limit = {"train": 3, "dev": 0, "test": None}
    sentiment("mosi", corpora / "cmu_mosi", limit=limit, test_share=0.0).prepare(tmp_path)
    found = read_records(tmp_path / "records.jsonl")
    assert Counter(r.split for r in found) == {"train": 3}
    reasons = Counter(x["reason"] for x in read_jsonl(tmp_path / "left_out.jsonl"))
    assert reasons == {"limit of split train": 3, "limit of split dev": 1}


def test_a_shipped_split_that_cuts_videos_is_refused_unless_clips_are_the_groups(corpora: Path, tmp_path: Path) -> None:
    replaced(corpora / "ch_sims" / "label.csv", "Negative,train", "Negative,test")
    with pytest.raises(RecordError, match="group 'video-v_1' occurs in split 'train'"):
        sentiment("sims", corpora / "ch_sims").dataset(tmp_path / "a")
    assert len(sentiment("sims", corpora / "ch_sims", group="clip").dataset(tmp_path / "b").records) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpus": "imdb"}, "task.corpus: one of ('vader_tweets', "),
        ({"group": "speaker"}, "task.group: 'video' or 'clip'; got 'speaker'"),
        ({"dev_share": 0.5, "test_share": 0.5}, "task.dev_share, test_share: shares with a sum below 1; got (0.5, 0.5)"),
        ({"test_share": -0.1}, "task.dev_share, test_share: shares with a sum below 1; got (0.2, -0.1)"),
        ({"limit": {"train": 3}}, "task.limit: one number or null for each of ('train', 'dev', 'test'); got {'train': 3}"),
        ({"grammar": "xml"}, "task.grammar: one of"),
        ({"scale": [4, -4]}, "task.scale: [lower end, upper end], or null for the scale of the corpus; got [4, -4]"),
        ({"scale": [4]}, "task.scale: [lower end, upper end], or null for the scale of the corpus; got [4]"),
    ],
)  # fmt: skip
def test_sentiment_refuses_a_setting_that_cannot_be(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sentiment("mosi", tmp_path, **changes) if "corpus" not in changes else sentiment(changes["corpus"], tmp_path)
    assert str(caught.value).startswith(message) and str(caught.value).endswith("; mend the config")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpus": "iemocap"}, "task.corpus: one of ['emodb', 'ravdess']; got 'iemocap'"),
        ({"labels": ["neutral", "awe"]}, "task.labels: emodb has ['neutral', 'happiness', "),
        ({"dev": ["03"]}, "task.train, dev, test: each speaker belongs to one split; got ['03'] twice"),
        (
            {"speeds": [0.9, 0.9]},
            "task.speeds: different numbers from 0.5 to 2 without 1, which is always there; got [0.9, ",
        ),
        ({"speeds": [1.0]}, "task.speeds: different numbers from 0.5 to 2 without 1, which is always there; got [1.0]"),
        ({"speeds": [0.4]}, "task.speeds: different numbers from 0.5 to 2 without 1, which is always there; got [0.4]"),
    ],
)
def test_speech_emotion_refuses_a_setting_that_cannot_be(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        speech_emotion(**changes)
    assert str(caught.value).startswith(message) and str(caught.value).endswith("; mend the config")


def test_training_clips_are_there_at_other_speeds_too(corpora: Path, tmp_path: Path) -> None:
    tone = np.sin(2 * np.pi * 200 * np.arange(16_000) / 16_000)
    for path in (corpora / "emodb" / "wav").iterdir():
        soundfile.write(path, 0.5 * tone, 16_000)
    task = speech_emotion(data=str(corpora / "emodb"), train=["03", "08"], speeds=[0.8, 1.25])
    data, plain = task.dataset(tmp_path), speech_emotion(data=str(corpora / "emodb"), train=["03", "08"])
    before = {r.uid: r for r in plain.dataset(tmp_path / "plain").records}
    assert len(data.split("train")) == 3 * sum(r.split == "train" for r in before.values())
    assert {r.uid for r in data.records if r.split != "train"} == {u for u, r in before.items() if r.split != "train"}
    for record in data.records:
        uid, _, speed = record.uid.partition("-x")
        assert (record.target, record.group, record.split) == (before[uid].target, before[uid].group, before[uid].split)
        assert record.meta["speed"] == float(speed or 1)
        clip = record.views["audio"]
        assert isinstance(clip, Media)
        wave, rate = soundfile.read(data.root / clip.path)
        assert (rate, len(wave)) == (16_000, round(16_000 / record.meta["speed"]))
        spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
        assert spectrum.argmax() * rate / len(wave) == pytest.approx(200 * record.meta["speed"], abs=1)
    next((corpora / "emodb" / "wav").iterdir()).write_bytes(b"RIFF no sound")
    with pytest.raises(MediaError, match=r"\.wav: not a readable sound \(.*\); replace the file, or remove it"):
        task.prepare(tmp_path / "again")


def test_the_majority_answers_for_everybody(corpora: Path, tmp_path: Path) -> None:
    task = speech_emotion(data=str(corpora / "emodb"), train=["03", "08"])
    data = task.dataset(tmp_path)
    # train: 03a01W and 08a04W anger, 03b01N neutral, 03b02T sadness
    assert [t.render() for t in task.baseline(data.split("train"), data.split("test"))] == ["anger"]
    assert task.question(data.records[0]) == "Which emotion does the voice carry: neutral, anger, sadness?"


# --- the real corpora; counts as their SOURCE.txt states them ---


def test_the_real_emodb(real_data: Path) -> None:
    found = read_emodb(real_data / "emodb")
    assert Counter(r.target.render() for r in found) == {"anger": 76, "neutral": 50, "happiness": 42, "sadness": 40}
    assert Counter(r.group[-2:] for r in found) == {"03": 39, "08": 42, "09": 30, "10": 21, "11": 35, "14": 41}
    by_file = {row["file"]: row for row in csv.DictReader((real_data / "emodb" / "labels.csv").open(encoding="utf-8"))}
    for record in found:
        audio = record.views["audio"]
        assert isinstance(audio, Media)
        row = by_file[audio.path]
        assert (record.target.render(), record.views["text"]) == (row["emotion"], row["text"])
        assert record.meta["gender"] == row["gender"]


def test_the_real_ravdess(real_data: Path) -> None:
    found = read_ravdess(real_data / "ravdess")
    assert Counter(r.target.render() for r in found) == dict.fromkeys(ravdess.VALENCE, 16)
    assert Counter(r.meta["gender"] for r in found) == {"male": 64, "female": 64}
    by_file = {
        row["file"]: row for row in csv.DictReader((real_data / "ravdess" / "labels.csv").open(encoding="utf-8"))
    }
    for record in found:
        audio = record.views["audio"]
        assert isinstance(audio, Media)
        row = by_file[audio.path]
        assert (record.target.render(), record.views["text"]) == (row["emotion"], row["text"])
        assert record.group == f"actor-{row['actor']}"


@pytest.mark.parametrize(("corpus", "rows", "raters"), [("vader_tweets", 4200, 20), ("vader_movies", 10605, 15)])
def test_the_real_vader(real_data: Path, corpus: str, rows: int, raters: int) -> None:
    found = vader.read(real_data / "vader_icwsm2014", corpus, task="t", neutral=0.5)
    assert len(found) == rows
    assert min(len(r.raters or ()) for r in found) >= raters
    assert all("&amp;" not in str(r.views["text"]) for r in found)


def test_the_real_emobank(real_data: Path) -> None:
    found = emobank.read(real_data / "emobank", task="t", neutral=0.25, vector=True)
    assert Counter(r.split for r in found) == {"train": 8062, "dev": 1000}
    columns = zip(*(r.target.x for r in found if isinstance(r.target, Vector)), strict=True)
    assert [(min(c), max(c)) for c in columns] == [(1.2, 4.6), (1.8, 4.4), (2.0, 4.2)]


def test_the_real_mosi(real_data: Path) -> None:
    found = read_mosi(real_data / "cmu_mosi")
    assert Counter(r.split for r in found) == {"train": 1284, "dev": 229}
    assert Counter(split for _, split in {(r.group, r.split) for r in found}) == {"train": 52, "dev": 10}
    assert len(read_mosi(real_data / "cmu_mosi", language="zh")) == 1513
