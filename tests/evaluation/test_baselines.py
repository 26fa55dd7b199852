"""Baselines: a support vector machine, a regression head, bare labels; each reads its settings, its splits and nothing else."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from omegaconf import OmegaConf
from verbs import ROOT, call

from evaluation.baselines import classical, labels, regression
from evaluation.baselines.config import BaselineConfig, ClassicalConfig, LabelsConfig, RegressionConfig
from evaluation.report import print_table
from evaluation.run import EvalConfig
from evaluation.score import read_predictions, score_predictions
from models.load import LoraSettings, ModelConfig, Perception, base_checkpoint, load_model
from models.processor import Processor
from models.session import RunConfig, Session
from runtime.config import section
from runtime.errors import ConfigError, StageError
from runtime.files import read_jsonl
from tasks.base import PARTS, Dataset, Task
from tasks.dc import GRAMMARS
from tasks.record import Record, read_records, write_records
from tasks.speech_emotion.task import SpeechEmotion
from tasks.studio.task import Studio
from tasks.target import Class, Scalar

Tiny = tuple[ModelConfig, torch.nn.Module, Processor]

RUN = RunConfig("run", "", 0, 0.0, [], "undertone", [], 10, 16)
EVAL = EvalConfig("test", None, 8, 6, 0.0, [], 20, None)
CLASSICAL = ClassicalConfig(folds=5, C=[1.0, 10.0], gamma=[1e-3])
HEAD = RegressionConfig(
    "trained", max_steps=4, batch=4, lr=1e-2, warmup=0.0, weight_decay=0.0, max_grad_norm=1.0, eval_every=2
)
RATE = 16_000
LOW, HIGH = 150.0, 300.0
VOICES = [(speaker, i) for speaker in ("03", "08", "09", "10") for i in range(6)]


def session(
    folder: Path, task: Task, data: Dataset, model: ModelConfig, evaluation: EvalConfig = EVAL, **parts
) -> Session:
    """A run in `folder` with settings of its own."""
    baseline = {"classical": CLASSICAL, "regression": HEAD, "labels": LabelsConfig(None)} | parts
    cfg = OmegaConf.create(
        {
            "task": {"name": task.name},
            "eval": asdict(evaluation),
            "baseline": {name: asdict(value) for name, value in baseline.items()},
        }
    )
    write_records(folder / "data" / "records.jsonl", data.records)
    return Session(cfg, replace(RUN, dir=str(folder)), folder, 0, task, data, model)


def voice(hz: float, seed: int) -> np.ndarray:
    """[T] one second of a buzz whose pitch wavers."""
    rng = np.random.default_rng(seed)
    t = np.arange(RATE) / RATE
    phase = 2 * np.pi * np.cumsum(hz * (1 + 0.02 * np.sin(2 * np.pi * 3 * t + seed))) / RATE
    return 0.1 * sum(np.sin(k * phase) / k for k in range(1, 8)) + 0.001 * rng.standard_normal(RATE)


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> tuple[SpeechEmotion, Dataset]:
    """Four speakers, of whom two train, one is dev and one is test: sad voices are low and angry ones high."""
    root = tmp_path_factory.mktemp("speech")
    for n, (speaker, i) in enumerate(VOICES):
        letter, hz = ("T", LOW) if i % 2 else ("W", HIGH)
        soundfile.write(root / f"{speaker}a0{1 + i % 2}{letter}{'abcdef'[i]}.wav", voice(hz, n), RATE, subtype="PCM_16")
    task = SpeechEmotion(
        name="speech",
        views=["audio"],
        grammar="dc",
        corpus="emodb",
        data=str(root),
        labels=["sadness", "anger", "neutral"],
        train=["03", "08"],
        dev=["09"],
        test=["10"],
        speeds=[],
    )
    return task, task.dataset(tmp_path_factory.mktemp("speech-run"))


# Functionals


def test_a_clip_has_so_many_finite_functionals_and_the_cues_of_silence_are_unknown():
    found = classical.functionals(voice(LOW, 0))
    # (20 MFCC + 20 deltas + centroid, bandwidth, rolloff, flatness, zero crossings, level) x (mean, deviation, 3 percentiles)
    assert found.shape == (46 * 5 + 7,) and np.isfinite(found).all()
    silent = classical.functionals(np.zeros(RATE, np.float32))
    assert np.isfinite(silent[:-7]).all() and np.isnan(silent[-7:]).all()
    assert np.isfinite(classical.functionals(voice(LOW, 0)[:100])[:-7]).all(), "shorter than a window"


def test_a_known_contour_has_its_known_mean():
    # of a constant loud sine the level contour is flat: mean and median agree; the pitch cue is that of the sine
    wave = 0.5 * np.sin(2 * np.pi * 200 * np.arange(RATE) / RATE).astype(np.float32)
    found = classical.functionals(wave)
    mean, median = found[45], found[46 * 3 + 45]
    assert mean == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=5), "level in dB, windowing aside"
    assert median == pytest.approx(mean, abs=1)
    assert found[46 * 5] == pytest.approx(200, rel=0.01)


def test_features_are_measured_once_per_clip(speech, cache, monkeypatch):
    task, data = speech
    records = data.records[:2]
    first = classical.features(task, data, records)

    def never(wave: np.ndarray) -> np.ndarray:
        raise AssertionError("measured again")

    monkeypatch.setattr(classical, "functionals", never)
    assert np.array_equal(classical.features(task, data, records), first)


# The classical baseline


def test_the_machine_hears_what_tells_the_labels_apart_and_its_answers_score_as_a_checkpoints_do(
    speech, tiny: Tiny, tmp_path
):
    task, data = speech
    result = classical.run(session(tmp_path, task, data, tiny[0]))
    assert result["metrics"]["uar"]["value"] == 1.0 and result["baseline"]["uar"] == 0.5 and result["n"] == 6
    assert result["cv_uar"] == 1.0 and result["folds"] == 2 and result["clips"] == 12 and result["features"] == 237
    assert set(result["chosen"]) == {"C", "gamma"}
    path, test = tmp_path / "eval" / "classical" / "predictions.jsonl", data.split("test")
    rows = read_jsonl(path)
    assert [row["uid"] for row in rows] == [r.uid for r in test]
    assert rows[0]["answer"] == rows[0]["gold"] and rows[0]["completion"] is None
    assert rows[0]["parts"] == dict.fromkeys(PARTS) | {"discriminate": 1.0, "calibrate": 1.0}
    completions, answers = read_predictions(path, {r.uid for r in test})
    again = score_predictions(task, test, completions, answers=answers, train=data.split("train"), resamples=20, seed=0)
    assert again == {key: result[key] for key in again}


def test_neither_dev_nor_test_labels_are_looked_at(speech, tiny: Tiny, tmp_path):
    task, data = speech

    def said(name: str, relabel: Callable[[Record], Record]) -> list[str]:
        other = replace(data, records=tuple(relabel(r) for r in data.records))
        classical.run(session(tmp_path / name, task, other, tiny[0]))
        return [row["answer"] for row in read_jsonl(tmp_path / name / "eval" / "classical" / "predictions.jsonl")]

    def swapped(record: Record, splits: Sequence[str]) -> Record:
        assert isinstance(record.target, Class)
        other = {"sadness": "anger", "anger": "sadness"}[record.target.label]
        return replace(record, target=replace(record.target, label=other)) if record.split in splits else record

    plain = said("plain", lambda r: r)
    assert said("dev and test", lambda r: swapped(r, ("dev", "test"))) == plain
    assert said("train", lambda r: swapped(r, ("train",))) != plain


def test_settings_are_chosen_on_left_out_groups():
    # each group has features and labels of its own: inside a group neighbours give the label away, outside nothing does
    rng = np.random.default_rng(0)
    groups = [str(g) for g in range(4) for _ in range(10)]
    names = [name for _ in range(4) for name in rng.permutation(["a", "b"] * 5)]
    centres = {(g, name): rng.normal(size=5) * 10 for g in "0123" for name in ("a", "b")}
    features_NF = np.array([centres[g, n] + 0.01 * rng.normal(size=5) for g, n in zip(groups, names, strict=True)])
    search = classical.fit(features_NF, names, groups, replace(CLASSICAL, folds=9, gamma=[0.1]))
    assert search.n_splits_ == 4, "never more folds than groups"
    assert search.best_score_ < 0.8 and np.mean(search.predict(features_NF) == np.array(names)) == 1.0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda task, data: (task, replace(data, records=tuple(r for r in data.records if r.group != "speaker-08"))),
            StageError,
            r"baselines classical: two groups and two labels .* got 1 and 2; list more speakers in task\.train",
        ),
        (
            lambda task, data: (task, replace(data, records=tuple(r for r in data.records if "W" not in r.uid))),
            StageError,
            r"two groups and two labels .*; got 2 and 1; list more speakers",
        ),
    ],
)
def test_too_few_speakers_or_labels_are_refused(speech, tiny: Tiny, tmp_path, change, error, message):
    task, data = change(*speech)
    with pytest.raises(error, match=message):
        classical.run(session(tmp_path, task, data, tiny[0]))


def test_numbers_are_no_labels(studio: Studio, studio_data, tiny: Tiny, tmp_path):
    said = r"baselines classical: answers must be labels, and those of studio are of kind 'scalar'; choose a task such as emodb"
    with pytest.raises(ConfigError, match=said):
        classical.run(session(tmp_path, studio, studio_data, tiny[0]))


def test_a_task_that_shows_no_sound_is_refused(speech, tiny: Tiny, tmp_path):
    task, data = speech
    deaf = SpeechEmotion(
        name="deaf",
        views=["text"],
        grammar="dc",
        corpus="emodb",
        data=str(data.root),
        labels=task.space.labels,
        train=["03", "08"],
        dev=["09"],
        test=["10"],
        speeds=[],
    )
    said = r"functionals are of sound, and deaf shows none in 'speech-.*' \(task\.views=\['text'\]\); add an audio view"
    with pytest.raises(ConfigError, match=said):
        classical.run(session(tmp_path, deaf, data, tiny[0]))


# The regression head


def regressor(tiny: Tiny, **changes) -> regression.Regressor:
    cfg = replace(tiny[0], **changes)
    torch.manual_seed(3)
    return regression.Regressor(load_model(cfg, base_checkpoint(cfg), train=True))


def test_the_scale_of_the_head_and_that_of_the_label():
    like = Scalar(2.0, 1.0, 5.0, 0.25)
    assert regression.unit(like) == -0.5  # a quarter of the way from 1 to 5
    assert regression.at_unit(like, -0.5) == like
    assert [regression.at_unit(like, u).x for u in (-1.0, 0.0, 1.0, 0.123456)] == [1.0, 3.0, 5.0, 3.2469]


def test_every_epoch_has_every_row_once_in_another_order():
    def epochs(seed: int) -> list[list[list[int]]]:
        found = regression.batches(10, 4, seed)
        return [[next(found) for _ in range(3)] for _ in range(2)]

    first, second = epochs(0)
    assert [len(batch) for batch in first] == [4, 4, 2]
    for epoch in (first, second):
        assert sorted(row for batch in epoch for row in batch) == list(range(10))
    assert first != second and epochs(0) == [first, second] and epochs(1)[0] != first


def test_an_untrained_head_says_the_middle_and_a_trained_one_says_the_same_in_any_batch(
    tiny: Tiny, studio: Studio, studio_data
):
    model, processor, records = regressor(tiny), tiny[2], studio_data.split("test")[:5]
    assert regression.predict(model, processor, studio, studio_data, records, 5).tolist() == [0.0] * 5
    torch.nn.init.normal_(model.head.weight)
    by_size = [regression.predict(model, processor, studio, studio_data, records, n) for n in (1, 2, 5)]
    assert np.allclose(by_size[0], by_size[1], atol=1e-5) and np.allclose(by_size[0], by_size[2], atol=1e-5)
    assert np.ptp(by_size[0]) > 1e-3, "the answer depends on the prompt"


@pytest.mark.parametrize(("backbone", "moves"), [("trained", True), ("frozen", False)])
def test_a_run_learns_writes_its_weights_and_is_repeatable(
    backbone, moves, tiny: Tiny, studio: Studio, studio_data, tmp_path
):
    def once(name: str) -> dict:
        return regression.run(
            session(tmp_path / name, studio, studio_data, tiny[0], regression=replace(HEAD, backbone=backbone))
        )

    result = once("a")
    assert result["n"] == 8 and result["metrics"]["unparseable"]["value"] == 0
    curve = read_jsonl(tmp_path / "a" / "baseline" / "regression" / "curve.jsonl")
    assert [row["step"] for row in curve] == [2, 4]
    assert result["training"]["dev_mae"] == min(row["dev_mae"] for row in curve)
    final = tmp_path / "a" / "baseline" / "regression" / "final"
    start, end = (
        load_model(tiny[0], checkpoint, train=False).state_dict() for checkpoint in (base_checkpoint(tiny[0]), final)
    )
    moved = [name for name in start if not torch.equal(start[name], end[name])]
    assert bool(moved) == moves and "lm_head.weight" not in moved
    again = once("b")
    assert {**again, "seconds": 0} == {**result, "seconds": 0}
    answers = [(tmp_path / n / "eval" / "regression" / "predictions.jsonl").read_bytes() for n in ("a", "b")]
    assert answers[0] == answers[1]
    rows = read_jsonl(tmp_path / "a" / "eval" / "regression" / "predictions.jsonl")
    assert len({row["answer"] for row in rows}) > 1 and rows[0]["completion"] is None and "conflict" in rows[0]["meta"]


def test_a_head_that_was_trained_is_evaluated_without_training(tiny: Tiny, studio: Studio, studio_data, tmp_path):
    first = regression.run(session(tmp_path / "a", studio, studio_data, tiny[0]))
    final = str(tmp_path / "a" / "baseline" / "regression" / "final")
    untouched = replace(HEAD, max_steps=0)
    second = regression.run(
        session(tmp_path / "b", studio, studio_data, tiny[0], replace(EVAL, init=final), regression=untouched)
    )
    assert second["metrics"] == first["metrics"] and second["training"] == {}
    assert not (tmp_path / "b" / "baseline").exists()


def test_an_adapter_is_trained_like_the_one_of_sft_and_comes_back(tiny: Tiny, studio: Studio, studio_data, tmp_path):
    lora = LoraSettings(r=2, alpha=4, dropout=0.0, targets=r".*language_model.*\.(q_proj|v_proj)")
    cfg = replace(tiny[0], lora=lora, freeze_towers=True)
    first = regression.run(session(tmp_path / "a", studio, studio_data, cfg))
    final = tmp_path / "a" / "baseline" / "regression" / "final"
    assert (final / "adapter_config.json").is_file() and not (final / "model.safetensors").exists()
    trained = regression.Regressor(load_model(cfg, base_checkpoint(cfg), train=True)).trained
    assert all("lora_" in name or name.startswith("head.") for name in trained)
    changed = session(
        tmp_path / "b", studio, studio_data, cfg, replace(EVAL, init=str(final)), regression=replace(HEAD, max_steps=0)
    )
    assert regression.run(changed)["metrics"] == first["metrics"]


def test_the_weights_of_the_best_look_at_dev_are_kept(tiny: Tiny, studio: Studio, studio_data, tmp_path, monkeypatch):
    model, seen = regressor(tiny), []
    gold = np.array([regression.unit(r.target) for r in studio_data.split("dev")])
    errors = iter([0.5, 0.2, 0.4])

    def look(regressor, processor, task, data, records, batch) -> np.ndarray:
        assert records == data.split("dev"), "nothing but dev is looked at"
        seen.append(regressor.head.weight.detach().clone())
        return gold + next(errors)

    monkeypatch.setattr(regression, "predict", look)
    cfg = replace(HEAD, max_steps=3, eval_every=1)
    best = regression.train(model, tiny[2], studio, studio_data, cfg, 0, tmp_path)
    assert best == {"step": 2, "dev_mae": pytest.approx(0.2)}
    assert torch.equal(model.head.weight, seen[1]) and not torch.equal(seen[1], seen[2])


def test_the_first_step_goes_down_the_squared_error(tiny: Tiny, studio: Studio, studio_data, tmp_path):
    # at zero weights u = tanh(0) = 0, so d/db of mean (u - gold)^2 is -2 mean(gold): Adam's first step has its sign and size lr
    model = regressor(tiny)
    cfg = replace(HEAD, max_steps=1, batch=16, lr=1e-2)
    regression.train(model, tiny[2], studio, studio_data, cfg, 0, tmp_path)
    mean = np.mean([regression.unit(r.target) for r in studio_data.split("train")])
    assert model.head.bias.item() == pytest.approx(0.01 * np.sign(mean), rel=1e-3)
    (row,) = read_jsonl(tmp_path / "curve.jsonl")
    assert row["loss"] == pytest.approx(np.mean([regression.unit(r.target) ** 2 for r in studio_data.split("train")]))


def test_labels_are_no_numbers(speech, tiny: Tiny, tmp_path):
    said = r"baselines regression: answers must be numbers, and those of speech are of kind 'class'; choose a task such as studio"
    with pytest.raises(ConfigError, match=said):
        regression.run(session(tmp_path, speech[0], speech[1], tiny[0]))


def test_a_model_with_a_perception_stage_wants_its_checkpoint_named(tiny: Tiny, studio: Studio, studio_data, tmp_path):
    cfg = replace(tiny[0], perception=Perception(clips=1, steps=1, batch=1, lr=1e-3))
    said = r"eval\.init: tiny_omni starts from what `python -m sft\.perception` makes of it, .* name the folder that this command"
    with pytest.raises(ConfigError, match=said):
        regression.run(session(tmp_path, studio, studio_data, cfg))


def test_what_a_head_needs_is_said(tiny: Tiny, studio: Studio, studio_data, tmp_path):
    def run(data: Dataset = studio_data, evaluation: EvalConfig = EVAL, **changes) -> None:
        regression.run(session(tmp_path, studio, data, tiny[0], evaluation, regression=replace(HEAD, **changes)))

    with pytest.raises(StageError, match=r"eval\.init: there is no checkpoint at nowhere; mend the path"):
        run(evaluation=replace(EVAL, init="nowhere"))
    with pytest.raises(
        StageError, match=r"max_steps=0: a head is evaluated, and there is no head\.safetensors in .*; name a"
    ):
        run(max_steps=0)
    without = replace(studio_data, records=tuple(r for r in studio_data.records if r.split != "dev"))
    with pytest.raises(
        StageError, match=r"weights to keep are chosen on dev, and studio has no record there; give the task"
    ):
        run(without)


# Bare labels


@pytest.fixture
def terse(studio: Studio) -> Studio:
    """The studio, answered without reasoning."""
    return Studio(name=studio.name, views=studio.views, grammar="answer", train=16, dev=4, test=8, conflict=0.4, seed=0)


def test_every_training_record_gets_its_label_as_its_chain(terse: Studio, studio_data, tiny: Tiny, tmp_path):
    result = labels.run(session(tmp_path, terse, studio_data, tiny[0]))
    chains, train = read_records(Path(result["file"])), studio_data.split("train")
    assert result["chains"] == 16 and {r.uid for r in chains} == {r.uid for r in train}
    assert [r.uid for r in chains] != [r.uid for r in train], "shuffled, because sft holds the last ones out"
    for chain in chains:
        text = f"<answer>{chain.target.render()}</answer>"
        parts = dict.fromkeys(PARTS) | {"format": 1.0, "discriminate": 1.0, "calibrate": 1.0}
        assert chain.rationale == text and terse.score(chain, text).parts == parts


def test_only_records_of_the_named_chains_are_labelled(terse: Studio, studio_data, tiny: Tiny, tmp_path):
    taught = [replace(r, rationale="said so") for r in studio_data.split("train")[3:6]]
    like = tmp_path / "taught.jsonl"
    write_records(like, taught)
    result = labels.run(session(tmp_path / "a", terse, studio_data, tiny[0], labels=LabelsConfig(str(like))))
    chains = read_records(Path(result["file"]))
    assert {r.uid for r in chains} == {r.uid for r in taught} and "said so" not in {r.rationale for r in chains}
    write_records(like, [replace(r, uid="another") for r in taught[:1]])
    with pytest.raises(StageError, match=r"labels: no training record is in .*taught\.jsonl; name another file"):
        labels.run(session(tmp_path / "b", terse, studio_data, tiny[0], labels=LabelsConfig(str(like))))


@pytest.mark.parametrize("grammar", sorted(set(GRAMMARS) - {"answer"}))
def test_a_grammar_that_asks_for_reasoning_is_refused(grammar, studio: Studio, studio_data, tiny: Tiny, tmp_path):
    task = Studio(name="studio", views=["text"], grammar=grammar, train=1, dev=1, test=1, conflict=None, seed=0)
    said = rf"task\.grammar: labels hold no reasoning, which the grammar '{grammar}' asks for; use task\.grammar=answer"
    with pytest.raises(ConfigError, match=said):
        labels.run(session(tmp_path, task, studio_data, tiny[0]))


# Settings and commands


def test_the_defaults_are_typed_and_live_in_conf_alone():
    cfg = OmegaConf.create({"baseline": OmegaConf.load(ROOT / "conf" / "baseline" / "default.yaml")})
    found = section(cfg, "baseline", BaselineConfig)
    assert found.regression.backbone == "trained" and found.classical.folds == 5 and found.labels.like is None


@pytest.mark.parametrize(
    ("good", "change", "message"),
    [
        (CLASSICAL, {"folds": 1}, r"baseline\.classical\.folds: 2 or more; got 1; mend the config"),
        (CLASSICAL, {"C": []}, r"baseline\.classical\.C: one number above 0, or several; got \[\]; mend the config"),
        (
            CLASSICAL,
            {"gamma": [0.0]},
            r"baseline\.classical\.gamma: one number above 0, or several; got \[0\.0\]; mend",
        ),
        (HEAD, {"backbone": "thawed"}, r"baseline\.regression\.backbone: one of .*; got 'thawed'; mend the config"),
        (HEAD, {"max_steps": -1}, r"baseline\.regression: max_steps 0 or more, .*; got max_steps=-1 batch=4 "),
        (HEAD, {"batch": 0}, r"batch and eval_every 1 or more; got max_steps=4 batch=0 eval_every=2; mend the config"),
        (HEAD, {"eval_every": 0}, r"eval_every=0; mend the config"),
        (HEAD, {"lr": 0.0}, r"baseline\.regression: lr and max_grad_norm above 0, .*; got lr=0\.0 warmup"),
        (HEAD, {"warmup": 1.0}, r"warmup in \[0, 1\), weight_decay 0 or more; got .* warmup=1\.0"),
        (HEAD, {"weight_decay": -1.0}, r"weight_decay=-1\.0"),
        (HEAD, {"max_grad_norm": 0.0}, r"max_grad_norm=0\.0; mend the config"),
    ],
)
def test_settings_that_cannot_be_are_refused(good, change, message):
    with pytest.raises(ConfigError, match=message):
        replace(good, **change)


def test_the_command_runs_a_baseline_into_the_run_folder_and_knows_its_names(tmp_path):
    environment = {"UNDERTONE_CACHE": str(tmp_path / "cache")}
    outcome = call("evaluation.baselines", ["svm"], tmp_path / "log", environment)
    assert outcome.code == 1 and outcome.text == (
        "error: 'svm' is no baseline; write python -m evaluation.baselines classical|regression|labels task=...\n"
    )
    base = ["debug=smoke", "model.perception=null", "task.train=8", f"hydra.run.dir={tmp_path / 'run'}"]
    outcome = call("evaluation.baselines", ["regression", *base], tmp_path / "log", environment)
    assert outcome.code == 0, outcome.text
    assert "trivial rule" in outcome.text and "mae" in outcome.text
    assert len(read_jsonl(tmp_path / "run" / "eval" / "regression" / "predictions.jsonl")) == 12
    assert "baselines/__main__.py regression" in (tmp_path / "run" / "manifest.json").read_text()


def test_the_table_of_an_evaluation_shows_a_checkpoint_from_elsewhere():
    one = {"metrics": {"mae": {"value": 0.5, "lo": 0.4, "hi": 0.6}}}
    assert "0.500 [0.400, 0.600]" in print_table({"task": "t", "baseline": {"mae": 1.0}, "init": one})
