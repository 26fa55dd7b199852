"""The studies hold together: every arm's overrides make settings that the verbs accept, and what is done is skipped."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from evaluation.compare.runs import Run
from evaluation.grading import ExplanationConfig
from evaluation.run import EvalConfig
from evidence import readers, speech, text
from evidence.__main__ import main
from evidence.plan import STUDIES
from evidence.studio import Runs, run
from evidence.text import across
from rl.config import HintConfig, RLConfig
from runtime.config import make, section
from runtime.files import write_json
from sft.config import SFTConfig
from tasks.record import Record, read_records, write_records
from tasks.target import Scalar

CONF = str(Path(__file__).parent.parent / "conf")


def check(verb: str, overrides: list[str]) -> None:
    """What a verb would do with its overrides before it works: compose them, and read its sections and its task."""
    with initialize_config_dir(CONF, version_base=None):
        cfg = compose("pipeline", overrides=["run.dir=x", *(o for o in overrides if not o.startswith("hydra."))])
    section(cfg, "explanation", ExplanationConfig)
    section(cfg, "rl", RLConfig)
    section(cfg, "sft", SFTConfig)
    section(cfg, "eval", EvalConfig)
    task, hint = make(cfg, "task"), section(cfg, "hint", HintConfig)
    if verb == "rl":
        hint.check_task(task)


@pytest.mark.parametrize(("study", "arm"), [(name, arm) for name, study in STUDIES.items() for arm in study.arms])
def test_every_arm_is_a_setting_that_the_verbs_accept(study, arm):
    plan = STUDIES[study]
    of_arm = plan.arms[arm]
    stage = {"rl": plan.rl, "sft": plan.sft}.get(of_arm.verb, ())
    check(of_arm.verb, [o.format(out="folder") for o in (*plan.every, *stage, *of_arm.overrides)])


@pytest.mark.parametrize("conflicts", [True, False])
def test_a_study_is_run_once_and_every_arm_starts_where_it_says(tmp_path, monkeypatch, conflicts):
    called = []

    def verb(name, log, overrides):
        folder = next((Path(o.split("=")[1]) for o in overrides if o.startswith("hydra.run.dir=")), None)
        called.append((name, folder and str(folder.relative_to(tmp_path)), list(overrides)))
        if name == "data_synth":
            chains = [
                Record(
                    uid=f"r-{i}",
                    task="studio",
                    split="train",
                    group="s",
                    views={"text": "so"},
                    target=Scalar(1.0, -3, 3, 0.2),
                    meta={"conflict": i == 1},
                )
                for i in range(4)
            ]
            (folder / "synth").mkdir(parents=True)
            (folder / "data").mkdir()
            write_records(folder / "synth" / "chains.jsonl", chains)
        if name in ("evaluation", "evaluation.baselines regression"):
            made = {"evaluation": "rl" if "rl.budget=400000" in overrides else "sft"}.get(name, "regression")
            (folder / "eval" / made).mkdir(parents=True)
            write_json(folder / "eval" / made / "stage.json", {"made_from": {}, "result": {}})
        return str(tmp_path / "perceives")

    monkeypatch.setattr("evidence.studio.verb", verb)
    study = STUDIES["e1"]
    runs = Runs(replace(study, conflicts=conflicts), tmp_path)
    names = ["grpo", "more sft", "no cold start", "regression head"]
    run(runs, names, [0, 1], 1)
    said = [(name, folder) for name, folder, _ in called]
    assert said[:6] == [
        ("data_synth", "synth"),
        ("sft.perception", None),
        ("sft", "cold_start/seed0"),
        ("evaluation", "cold_start/seed0"),
        ("sft", "cold_start/seed1"),
        ("evaluation", "cold_start/seed1"),
    ]
    assert said[6:13] == [
        ("rl", "grpo/seed0"),
        ("evaluation", "grpo/seed0"),
        ("sft", "more_sft/seed0"),
        ("evaluation", "more_sft/seed0"),
        ("rl", "no_cold_start/seed0"),
        ("evaluation", "no_cold_start/seed0"),
        ("evaluation.baselines regression", "regression_head/seed0"),
    ]
    starts = [next((o for o in o_s if o.startswith(("rl.init", "eval.init"))), None) for _, _, o_s in called[6:13:2]]
    base = tmp_path / "perceives"
    assert starts == [f"rl.init={tmp_path}/cold_start/seed0/sft/final", None, f"rl.init={base}", f"eval.init={base}"]
    assert len(read_records(tmp_path / "chains.jsonl")) == (4 if conflicts else 3)
    before = len(called)
    run(runs, names, [0, 1], 1)
    assert len(called) == before


def test_what_is_paid_for_explanations_is_read_by_another_and_bare_answers_start_from_labels(tmp_path, monkeypatch):
    called = []

    def verb(name, log, overrides):
        check(name, [o for o in overrides if "=" in o])
        folder = Path(next(o for o in overrides if o.startswith("hydra.run.dir=")).split("=")[1])
        called.append((name, str(folder.relative_to(tmp_path)), list(overrides)))
        if name == "sft":
            (folder / "sft" / "final").mkdir(parents=True)
        if name == "evaluation":
            (folder / "eval" / "rl").mkdir(parents=True)
            write_json(folder / "eval" / "rl" / "stage.json", {"made_from": {}, "result": {}})
        return ""

    monkeypatch.setattr("evidence.studio.verb", verb)
    (tmp_path / "synth" / "data").mkdir(parents=True)
    runs = Runs(STUDIES["e5"], tmp_path)
    for _ in range(2):
        for arm in ("gated", "no thinking"):
            runs.arm(arm, STUDIES["e5"].arms[arm], 0)
    assert [(name, folder.removesuffix("/seed0")) for name, folder, _ in called] == [
        ("rl", "gated"),
        ("evaluation", "gated"),
        ("evaluation.baselines labels", "label_start"),
        ("sft", "label_start"),
        ("rl", "no_thinking"),
        ("evaluation", "no_thinking"),
    ]
    explained = [[o for o in overrides if o.startswith("explanation")] for _, _, overrides in called]
    reader = ["explanation=erv", f"explanation.verifier={tmp_path}/reader", "explanation.evidence=true"]
    assert explained == [["explanation=gated", f"explanation.verifier={tmp_path}/payer"], reader, [], [], [], reader]
    assert f"rl.init={tmp_path}/label_start/seed0/sft/final" in called[4][2]
    assert all("task.grammar=answer" in overrides for _, _, overrides in called[2:])


def test_the_two_readers_learn_from_different_clips():
    def chain(uid):
        said = f"positive: face up. said of {uid}"
        return f"<discriminate>{said}</discriminate><calibrate>much</calibrate><answer>2</answer>"

    def record(uid, x):
        target = Scalar(x, -3, 3, 0.2)
        return Record(uid=uid, task="studio", split="train", group="s", views={"text": "so"}, target=target)

    uids = [f"clip-{i}{copy}" for i in range(20) for copy in ("", "-x0.85")]
    records = {uid: record(uid, -1.0 if "7" in uid else 2.0) for uid in uids}
    texts = {uid: chain(uid) for uid in uids} | {"clip-3": "face up", "clip-4": ""}
    halves = [[json.loads(line) for line in readers.lines(texts, records, ["task=studio"], half)] for half in (0, 1)]
    about = [{row["text"].split()[-1] for row in half if row["text"].startswith("said of")} for half in halves]
    assert about[0] | about[1] == set(uids) - {"clip-3", "clip-4"}  # neither of these two can be parsed
    assert not about[0] & about[1]
    for half in about:  # a clip and its copy are in the same half
        assert all({uid, f"{uid}-x0.85"} <= half for uid in half if "-x" not in uid)
    assert sum(map(len, halves)) == 3 * (len(uids) - 2)  # three sentences of each
    # what people said of the clip, not what the teacher did
    for row in (row for half in halves for row in half if row["text"].startswith("said of")):
        assert row["labels"] == (["negative"] if "7" in row["text"] else ["positive"])


def test_an_unknown_arm_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["e1", "--arms", "grpo", "gpro"])
    assert "got ['gpro']" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["e2", "--arms", "grpo"])
    assert "those of e2 go on from one stack, and all of them are run; leave it out" in capsys.readouterr().err


GOLD = [-3.5 + 0.5 * np.arange(12), 1.0 + 0.25 * np.arange(12)]
GOLD[1][1::2] = GOLD[1][::2] + 0.5


def said(number: int, lo: float, hi: float, seed: int, off: float) -> Run:
    """An evaluation on twelve items, all answers of it `off` too high; of seed 1 those to neighbours are exchanged."""
    gold = GOLD[number]
    records = {
        f"{number}-{i}": Record(
            uid=f"{number}-{i}",
            task=f"remarks-{number}",
            split="test",
            group=f"g{i}",
            views={"text": "so"},
            target=Scalar(x, lo, hi, 0.0),
        )
        for i, x in enumerate(gold)
    }
    answers = [gold[i ^ 1] for i in range(12)] if seed == 1 else gold
    targets = [Scalar(x + off, lo, hi, 0.0) for x in answers]
    task = SimpleNamespace(metrics=lambda gold, answers: scalar_metrics([g.x for g in gold], [a.x for a in answers]))
    return Run(Path("x"), seed, task, records, dict(zip(records, targets, strict=True)), {}, (), {})  # type: ignore[arg-type]


def scalar_metrics(gold: list[float], answers: list[float]) -> dict[str, float]:
    spread = np.std(gold) * np.std(answers)
    covariance = np.mean((gold - np.mean(gold)) * (answers - np.mean(answers)))
    return {
        "corr": float(covariance / spread) if spread else 0.0,
        "mae": float(np.abs(np.subtract(gold, answers)).mean()),
    }


def test_evaluations_on_several_scales_are_averaged_by_hand():
    wide, narrow = (
        [said(number, lo, hi, seed, off) for seed in (0, 1)]
        for number, (lo, hi, off) in enumerate([(-4, 4, 0.4), (1, 5, 0.2)])
    )
    found = across([wide, narrow], resamples=50)
    assert found["corr"].seeds == (0, 1)
    exchanged = [np.corrcoef(x, [x[i ^ 1] for i in range(12)])[0, 1] for x in GOLD]
    assert found["corr"].values_S == pytest.approx([1.0, np.mean(exchanged)])
    # 0.4 of 8 and 0.2 of 4; exchanged neighbours are 0.5 apart on both scales, half of them that much too low
    assert found["mae"].values_S == pytest.approx([0.05, ((0.9 + 0.1) / 2 / 8 + (0.7 + 0.3) / 2 / 4) / 2])
    assert (found["mae"].unit, found["mae"].units) == ("group", 24)  # the same name in two corpora is no one's group
    assert found["mae"].samples_RS[:, 0] == pytest.approx(np.full(50, 0.05))
    assert across([wide, wide], resamples=5)["mae"].units == 12  # two policies asked about the same texts


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Verb and run folder of every command that a study of real data would run, each checked, none run."""
    called = []

    def verb(name, log, overrides):
        folder = next(Path(o.split("=")[1]) for o in overrides if o.startswith("hydra.run.dir="))
        called.append((name, str(folder.relative_to(tmp_path)), list(overrides)))
        check(name, list(overrides))
        made = {"sft": "sft/final", "rl": "rl/final", "data_synth": "synth", "evaluation.baselines labels": "labels"}
        (folder / made.get(name, "eval")).mkdir(parents=True)
        if name in made:
            (folder / made[name] / "chains.jsonl").touch()
        for there in ("init", *made) if name == "evaluation" else ():
            (folder / "eval" / there).mkdir()
            write_json(folder / "eval" / there / "stage.json", {"made_from": {}, "result": {}})
        return ""

    monkeypatch.setattr("evidence.text.verb", verb)
    monkeypatch.setattr("evidence.speech.verb", verb)
    return called


def test_texts_are_learnt_from_one_corpus_and_asked_about_the_others(tmp_path, calls):
    texts = text.Texts(tmp_path)
    text.run(texts, list(text.ARMS), [3], 1)
    tweets = [(name, folder) for name, folder, _ in calls if folder.startswith("vader_tweets/")]
    assert tweets[0] == ("evaluation.baselines labels", "vader_tweets/labels")
    assert [call for call in tweets if call[0] != "evaluation"][1:] == [
        ("sft", "vader_tweets/score_only/seed3"),
        ("sft", "vader_tweets/chains/seed3"),
        ("rl", "vader_tweets/grpo/seed3"),
        ("rl", "vader_tweets/hinted/seed3"),
    ]
    asked = [(folder, overrides) for name, folder, overrides in calls if name == "evaluation"]
    assert len(asked) == 2 * 4 * 3
    for folder, overrides in asked:
        trained, arm, _, about = folder.split("/")
        final = f"{tmp_path}/{trained}/{arm}/seed3/{'rl' if arm in ('grpo', 'hinted') else 'sft'}/final"
        assert f"eval.init={final}" in overrides and f"task={about.removeprefix('on_')}" in overrides
        assert not about.endswith(trained)
        assert ("task.grammar=answer" in overrides) == (arm == "score_only")
        assert ("eval.split=dev" in overrides) == (about == "on_mosi")
    before = len(calls)
    text.run(texts, list(text.ARMS), [3], 1)
    assert len(calls) == before


def test_speech_is_learnt_in_a_stack(tmp_path, calls):
    speech.run(speech.Speech(tmp_path, speech.HINTS), [3], 1)
    assert [(name, folder.removesuffix("/seed3")) for name, folder, _ in calls] == [
        ("data_synth", "german"),
        ("evaluation.baselines labels", "german"),
        ("evaluation.baselines labels", "english"),
        ("evaluation.baselines classical", "classical/seed0"),
        ("sft", "english_labels"),
        ("sft", "labels"),
        ("evaluation", "labels"),
        ("sft", "chains"),
        ("evaluation", "chains"),
        ("rl", "grpo"),
        ("evaluation", "grpo"),
        ("rl", "hinted"),
        ("evaluation", "hinted"),
    ]
    inits = [next((o for o in overrides if ".init=" in o), "").replace(f"{tmp_path}/", "") for _, _, overrides in calls]
    assert [init for init in inits if init] == [
        "sft.init=english_labels/seed3/sft/final",
        "sft.init=labels/seed3/sft/final",
        "rl.init=chains/seed3/sft/final",
        "rl.init=chains/seed3/sft/final",
    ]
    before = len(calls)
    speech.run(speech.Speech(tmp_path, speech.HINTS), [3], 1)
    assert len(calls) == before


def test_what_is_paid_for_explanations_of_speech_goes_on_from_the_same_stack(tmp_path, calls, monkeypatch):
    trained = []
    monkeypatch.setattr("evidence.speech.train_readers", lambda out, every, task: trained.append((out, task)))
    speech.run(speech.Speech(tmp_path, speech.EXPLANATIONS), [3], 1)
    assert trained == [(tmp_path, ["task=emodb"])]
    made = {folder.removesuffix("/seed3"): overrides for name, folder, overrides in calls if name == "rl"}
    assert list(made) == ["none", "erv", "own", "gated", "evidence", "no_thinking"]
    starts = {name: next(o for o in overrides if o.startswith("rl.init")) for name, overrides in made.items()}
    assert starts.pop("no_thinking") == f"rl.init={tmp_path}/labels/seed3/sft/final"
    assert set(starts.values()) == {f"rl.init={tmp_path}/chains/seed3/sft/final"}
    assert f"explanation.verifier={tmp_path}/payer" in made["own"]
    for name, folder, overrides in calls:
        if name == "evaluation":
            assert f"explanation.verifier={tmp_path}/reader" in overrides, folder
