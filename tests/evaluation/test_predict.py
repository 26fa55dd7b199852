"""A checkpoint is asked about files: a small model that has learnt one answer by heart, real clips, real commands."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from planted import read_film, write_film
from verbs import call

from evaluation.answers import answer_logprob, gist
from evaluation.panel import panel
from evaluation.predict import NO_ANSWER, Clip, Reader, ask, clips_of, main, open_reader
from models.engine.base import Completion
from models.load import ModelConfig, base_checkpoint, load_model, load_processor, save_model
from models.processor import Processor
from runtime.config import section
from runtime.errors import ConfigError, MediaError, StageError
from runtime.files import read_jsonl
from runtime.main import CONF
from tasks.base import Dataset
from tasks.record import Media
from tasks.studio.task import Studio
from tasks.target import Class, Scalar, Space

SAID = (
    "<discriminate>negative: words down, voice down, face flat</discriminate><calibrate>strength 1.8</calibrate>"
    "<answer>-1.8</answer>"
)
WORDS = "this awful film is on again"


def learn(model: torch.nn.Module, processor: Processor, messages, text: str, steps: int) -> None:
    """Until the model says `text` to this prompt."""
    batch = processor.collate([processor.encode(messages)])
    answer = torch.tensor([processor.answer_ids(text)])
    labels = torch.cat([torch.full_like(batch["input_ids"], -100), answer], 1)
    batch["input_ids"] = torch.cat([batch["input_ids"], answer], 1)
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch, labels=labels).loss.backward()
        optimizer.step()


@pytest.fixture(scope="module")
def run(studio: Studio, studio_data: Dataset, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a checkpoint in sft/final that says SAID about the first test clip."""
    folder = tmp_path_factory.mktemp("run")
    sizes = ["model.tiny.width=64", "model.tiny.layers=2", "model.tiny.tower_width=32", "model.perception=null"]
    with initialize_config_dir(CONF, version_base=None):
        cfg = compose("pipeline", [f"run.dir={folder}", *sizes])
    OmegaConf.save(OmegaConf.create(OmegaConf.to_container(cfg, resolve=True)), folder / "config.yaml")  # type: ignore[arg-type]
    (folder / "data").mkdir()
    shutil.copy(studio_data.root / "records.jsonl", folder / "data")
    model_cfg = section(cfg, "model", ModelConfig)
    base = base_checkpoint(model_cfg)
    processor, model = load_processor(model_cfg, base), load_model(model_cfg, base, train=True)
    record = studio_data.split("test")[0]
    torch.manual_seed(0)
    learn(model, processor, studio.prompt(record, studio_data.root), SAID, steps=100)
    save_model(model, processor, folder / "sft" / "final")
    return folder


@pytest.fixture(scope="module")
def reader(run: Path) -> Reader:
    return open_reader(run)


@pytest.fixture(scope="module")
def files(studio_data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sound, the film and the transcript of the clip that was learnt, all of one name."""
    folder = tmp_path_factory.mktemp("files")
    record = studio_data.split("test")[0]
    for name, ending in (("audio", "wav"), ("video", "mp4")):
        view = record.views[name]
        assert isinstance(view, Media)
        shutil.copy(studio_data.root / view.path, folder / f"one.{ending}")
    (folder / "one.txt").write_text(f"{record.views['text']}\n")
    return folder


# What is asked


def test_a_film_stands_for_pictures_and_sound_and_the_text_beside_it_for_its_words(reader: Reader, files: Path) -> None:
    (clip,) = clips_of(reader, files / "one.mp4", {})
    film = str((files / "one.mp4").relative_to("/"))
    assert clip.name == "one.mp4" and list(clip.views) == ["video", "audio", "text"]
    assert clip.views["video"] == Media("video", film) and clip.views["audio"] == Media("audio", film)
    assert clip.views["text"] == (files / "one.txt").read_text().strip()


def test_files_of_one_name_are_one_clip_and_others_are_left_alone(reader: Reader, files: Path, tmp_path: Path) -> None:
    shutil.copytree(files, tmp_path / "many")
    shutil.copy(files / "one.wav", tmp_path / "many" / "two.wav")
    (tmp_path / "many" / "notes.pdf").write_text("no clip")
    one, two = clips_of(reader, tmp_path / "many", {})
    assert (one.name, two.name) == ("one", "two")
    assert one.views["audio"].path.endswith("one.wav") and one.views["video"].path.endswith("one.mp4")  # type: ignore[union-attr]
    assert list(two.views) == ["audio"]


def test_a_view_that_is_named_goes_before_that_of_the_clip(reader: Reader, files: Path) -> None:
    (clip,) = clips_of(reader, files / "one.mp4", {"text": WORDS, "audio": str(files / "one.wav")})
    assert clip.views["text"] == WORDS and clip.views["audio"] == Media(
        "audio", str((files / "one.wav").relative_to("/"))
    )
    (alone,) = clips_of(reader, None, {"text": WORDS})
    assert alone == Clip(WORDS, {"text": WORDS})


# What is said


def test_the_answer_that_was_learnt_comes_back_with_its_confidence(reader: Reader, files: Path) -> None:
    (clip,) = clips_of(reader, files, {})
    said = ask(reader, clip, samples=8, temperature=0.5, seed=0, max_new_tokens=64)
    assert said.completion == SAID and said.fault is None and said.absent == ()
    assert said.answer is not None and said.answer.value.render() == "-1.8" and said.answer.verdict == "negative"
    assert sum(said.votes.values()) == 8 and said.share == said.votes["negative"] / 8 > 0.5
    row = said.to_json()
    assert row["explanation"] == {"discriminate": "words down, voice down, face flat", "calibrate": "strength 1.8"}
    assert row["confidence"]["votes"] == dict(said.votes) and row["views"]["video"] == str(files / "one.mp4")
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    again = ask(reader, clip, samples=8, temperature=0.5, seed=0, max_new_tokens=64)
    assert again.to_json() == row


def test_the_log_probability_is_that_of_the_tokens_inside_the_answer_block(reader: Reader, files: Path) -> None:
    """Against one forward pass over prompt and completion."""
    (clip,) = clips_of(reader, files, {})
    said = ask(reader, clip, samples=0, temperature=0.8, seed=0, max_new_tokens=64)
    record = replace(reader.like, views=clip.views)
    processor, model = reader.processor, reader.engine.model
    batch = processor.collate([processor.encode(reader.task.prompt(record, Path("/")))])
    answer = torch.tensor([processor.answer_ids(SAID)])
    batch["input_ids"] = torch.cat([batch["input_ids"], answer], 1)
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    with torch.no_grad():
        logits = model(**batch).logits[0, -answer.shape[1] - 1 : -1]
    logprobs = logits.log_softmax(-1).gather(1, answer[0][:, None])[:, 0].tolist()
    pieces = [processor.decode([i]) for i in answer[0].tolist()]
    ends = [sum(map(len, pieces[: n + 1])) for n in range(len(pieces))]
    start, end = SAID.index("-1.8<"), SAID.index("</answer>")
    inside = [
        p for p, stop, piece in zip(logprobs, ends, pieces, strict=True) if stop > start and stop - len(piece) < end
    ]
    assert 1 <= len(inside) < len(pieces) / 2
    assert said.logprob == pytest.approx(sum(inside) / len(inside), abs=1e-4)
    assert said.votes == {} and said.share is None


def test_what_is_no_answer_is_said_so_with_its_fault(reader: Reader, files: Path) -> None:
    (clip,) = clips_of(reader, files, {})
    said = ask(reader, clip, samples=2, temperature=0.8, seed=0, max_new_tokens=3)
    assert said.answer is None and said.fault == "unclosed_block" and said.logprob is None and said.share is None
    assert said.votes == {NO_ANSWER: 2} and said.to_json()["answer"] is None
    assert "no answer" in said.panel() and "unclosed_block" in said.panel()


def test_numbers_agree_by_their_side_and_labels_by_their_words() -> None:
    assert gist(Scalar(1.2, -3, 3)) == gist(Scalar(2.9, -3, 3)) == "positive"
    space = Space(("anger", "fear"), ("negative", "negative"))
    assert (gist(Class("anger", space)), gist(Class("fear", space))) == ("anger", "fear")


def test_a_clip_is_asked_about_as_evaluation_asks(reader: Reader, studio_data: Dataset, files: Path) -> None:
    """The same prompt, so the same ids and media."""
    record = studio_data.split("test")[0]
    (clip,) = clips_of(reader, files, {})
    theirs = reader.processor.encode(reader.task.prompt(record, studio_data.root))
    ours = reader.processor.encode(reader.task.prompt(replace(record, views=clip.views), Path("/")))
    assert torch.equal(theirs.ids, ours.ids) and set(theirs.media) == set(ours.media)
    assert all(torch.equal(theirs.media[k], ours.media[k]) for k in theirs.media)


# The panel


def test_a_panel_reads_like_this(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    facts = [
        ("why", "words down, voice down, and a face that does not move at all"),
        ("shown", "video, text; no audio"),
    ]
    votes = {"negative": 13, "no answer": 3}  # of 20 letters 13/16 are 16 and 2 eighths, 3/16 are 3 and 6 eighths
    # 54 letters within, 48 of them for the scale: -1.5 lies at 1.5 / 6 of 47, the middle at 23
    assert panel("a clip.mp4", "negative  -1.5", "negative", (-1.5, -3, 3), facts, votes).split("\n") == [
        "╭─ a clip.mp4 ─────────────────────────────────────────────╮",
        "│                                                          │",
        "│  negative  -1.5                                          │",
        "│                                                          │",
        "│  -3 ────────────●──────────┼──────────────────────── +3  │",
        "│                                                          │",
        "│  why     words down, voice down, and a face that does    │",
        "│          not move at all                                 │",
        "│  shown   video, text; no audio                           │",
        "│                                                          │",
        "│  negative   ████████████████▎···  13 of 16               │",
        "│  no answer  ███▊················  3 of 16                │",
        "│                                                          │",
        "╰──────────────────────────────────────────────────────────╯",
    ]


def test_every_line_of_a_panel_is_as_wide_as_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for columns, width in (("20", 56), ("70", 70), ("200", 88)):
        monkeypatch.setenv("COLUMNS", columns)
        text = panel(
            "x" * 100, "joy", None, None, [("think", "word " * 60), ("", "more")], {str(i): i for i in range(1, 9)}
        )
        assert {len(line) for line in text.split("\n")} == {width}
        assert "and 3 more" in text


# Checkpoints and mistakes


def test_the_newest_checkpoint_of_a_run_is_taken_and_any_can_be_named(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    shutil.copytree(copy / "sft", copy / "rl")
    cfg = json.loads((copy / "rl" / "final" / "config.json").read_text())
    (copy / "rl" / "final" / "config.json").write_text(json.dumps(cfg))
    assert open_reader(copy).engine.model.config.name_or_path == str(copy / "rl" / "final")
    assert open_reader(copy / "sft" / "final").engine.model.config.name_or_path == str(copy / "sft" / "final")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda f: f / "nowhere",
            r"nowhere: neither a run folder \(config.yaml\) nor a checkpoint \(config.json\); mend",
        ),
        (
            lambda f: (f / "config.yaml").write_text("") or f,
            r"this run has neither rl/final nor sft/final; train it first",
        ),
        (
            lambda f: (f / "config.json").write_text("") or f,
            r"no run folder with a config.yaml around it says what its",
        ),
    ],
)
def test_what_is_no_checkpoint_is_refused(make, message: str, tmp_path: Path) -> None:
    made = make(tmp_path)
    with pytest.raises(StageError, match=message):
        open_reader(made if isinstance(made, Path) else tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clip=x"], r"checkpoint: required and not given; write checkpoint=RUN"),
        (["checkpoint=r", "loud"], r"loud: settings are key=value; write checkpoint=RUN"),
        (["checkpoint=r", "cilp=x"], r"unknown key 'cilp' \(did you mean 'clip'\?\)"),
        (["checkpoint=r", "samples=some"], r"samples: a whole number from 0 on; got 'some'"),
        (["checkpoint=r", "max_new_tokens=0"], r"max_new_tokens: a whole number from 1 on; got '0'"),
        (["checkpoint=r", "temperature=0"], r"temperature: a number above 0; got '0'"),
        (["checkpoint=r", "temperature=hot"], r"temperature: a number above 0; got 'hot'"),
    ],
)
def test_a_bad_setting_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        main(arguments)


def test_clips_that_are_none_are_refused(reader: Reader, tmp_path: Path, files: Path) -> None:
    with pytest.raises(ConfigError, match=r"image: this model is shown video, audio, text; leave it out"):
        clips_of(reader, None, {"image": "x.png"})
    with pytest.raises(ConfigError, match=r"clip: nothing to ask about; write checkpoint=RUN"):
        clips_of(reader, None, {})
    with pytest.raises(MediaError, match=r"gone.mp4: there is no such file or folder; mend the path"):
        clips_of(reader, tmp_path / "gone.mp4", {})
    with pytest.raises(MediaError, match=r"gone.wav: there is no such audio file; mend the path"):
        clips_of(reader, None, {"audio": str(tmp_path / "gone.wav")})
    with pytest.raises(MediaError, match=r"holds no file that ends in .mp4 .m4v"):
        clips_of(reader, tmp_path, {})
    (tmp_path / "notes.pdf").write_text("no clip")
    (clip,) = clips_of(reader, tmp_path / "notes.pdf", {})
    with pytest.raises(
        MediaError, match=r"notes.pdf: holds nothing that this model is shown \(video, audio, text\); give"
    ):
        ask(reader, clip, 0, 1.0, 0, 4)


def test_a_silent_film_is_refused_with_what_to_give_in_its_place(reader: Reader, files: Path, tmp_path: Path) -> None:
    write_film(tmp_path / "mute.mp4", read_film(files / "one.mp4")[0], None)
    (clip,) = clips_of(reader, tmp_path / "mute.mp4", {})
    with pytest.raises(MediaError, match=r"mute.mp4: holds no sound for the view audio; give audio=FILE"):
        ask(reader, clip, 0, 1.0, 0, 4)


def test_one_bad_clip_of_a_folder_does_not_stop_the_others(run: Path, files: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(files, tmp_path / "many")
    (tmp_path / "many" / "bad.mp4").write_text("this is not a film")
    out = tmp_path / "said.jsonl"
    command = [f"checkpoint={run}", f"clip={tmp_path / 'many'}", "samples=2"]
    assert main([*command, f"out={out}"]) == 1
    bad, good = read_jsonl(out)
    assert bad["clip"] == "bad" and "not a readable media file" in bad["error"]
    assert good["clip"] == "one" and good["completion"] == SAID and good["answer"] == "-1.8"
    assert f"{out}: 2 clips, 1 of them could not be read" in capsys.readouterr().out
    assert main([*command, "out=-"]) == 1
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [bad, good]


def test_the_command_prints_a_panel(run: Path, files: Path, capsys) -> None:
    assert main([f"checkpoint={run}", f"clip={files / 'one.mp4'}", f"audio={files / 'one.wav'}", "samples=4"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("╭─ one.mp4 ─") and "negative  -1.8" in said and "of 4" in said and "\033[" not in said


def test_the_command_ends_with_one_line_on_a_mistake(tmp_path: Path) -> None:
    outcome = call("evaluation.predict", [f"checkpoint={tmp_path}", "clip=x"], tmp_path / "log", {})
    assert outcome.code == 1
    assert outcome.text.startswith("error: ") and outcome.text.count("\n") == 1


def test_a_token_that_lies_across_a_tag_counts_with_the_answer() -> None:
    pieces = ["<ans", "wer>-", "1.8", "</answer>"]
    processor = SimpleNamespace(decode=lambda ids: "".join(pieces[i] for i in ids))
    said = Completion((0, 1, 2, 3), (-1.0, -2.0, -4.0, -8.0), True)
    assert answer_logprob(processor, said) == -3.0  # type: ignore[arg-type]  # (-2 - 4) / 2
