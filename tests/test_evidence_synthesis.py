"""E6: drafts are counted by what was done to them, arms learn from as much, and every override is one that the verbs accept."""

from dataclasses import replace
from pathlib import Path

import pytest
from finished_run import rejection, synth, write_run
from hydra import compose, initialize_config_dir

from data_synth.config import SynthConfig
from data_synth.teacher import Teacher
from evaluation.run import EvalConfig
from evidence import synthesis
from evidence.__main__ import main
from evidence.filter import Drawn, by_defect, by_wording, drawn, report, share, summary
from evidence.synthesis import ARMS, EVERY, SFT, SYNTH, Synthesis, pools
from runtime.config import make, section
from runtime.files import write_json
from runtime.main import CONF
from sft.config import SFTConfig
from tasks.record import Record, read_records
from tasks.target import Scalar

GOOD = "<discriminate>positive: a warm word</discriminate><calibrate>said plainly</calibrate><answer>1.8</answer>"


def drafts(*counts: tuple[str | None, str | None, int]) -> list[Drawn]:
    """So many drafts with a defect (or none) and a reason (or none)."""
    kinds = [(defect, reason) for defect, reason, n in counts for _ in range(n)]
    return [Drawn(f"r-{i}", defect, None, reason) for i, (defect, reason) in enumerate(kinds)]


FOUND = drafts(
    ("leak", "speaks of the label: 'x'", 3),
    ("leak", None, 1),
    ("wrong", "wrong verdict", 4),
    ("decoy", "speaks of the label: 'x'", 2),
    ("decoy", None, 1),
    (None, None, 9),
)


def test_a_share_has_wilsons_interval():
    # p = .8, z = 1.95996: centre (.8 + .19207) / 1.38415 = .71674, half (1.95996 / 1.38415) * sqrt(.016 + .0096037) = .22658
    assert share(8, 10) == "0.800 [0.490, 0.943]"
    assert share(0, 0) == ""


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_precision_and_recall_are_of_rejecting():
    # 8 have a defect, 7 of them rejected, with 2 decoys: precision 7 / 9, recall 7 / 8; 12 of 20 without, 10 of the 11 kept
    (row,) = cells(summary(FOUND))
    assert [row[0], *(cell.split()[0] for cell in row[1:])] == ["20", "0.778", "0.875", "0.600", "0.909"]


def test_every_defect_has_a_line_with_the_reasons():
    rows = {row[0]: row[1:] for row in cells(by_defect(FOUND))}
    assert list(rows) == ["leak", "wrong", "any defect", "decoy", "honest"]
    assert rows["leak"][:2] == ["4", "3"] and rows["leak"][2].startswith("0.750 ")
    assert rows["leak"][3] == "speaks of the label 3"
    assert rows["any defect"][:2] == ["8", "7"] and rows["decoy"][:2] == ["3", "2"] and rows["honest"][:2] == ["9", "0"]
    assert rows["any defect"][3] == "wrong verdict 4, speaks of the label 3"


def test_wordings_are_counted_apart():
    found = [Drawn("a", "leak", "we were told", None), Drawn("b", "leak", "the label is", "speaks of the label: x")]
    found += [Drawn("c", "leak", "the label is", "speaks of the label: x"), Drawn("d", "wrong", None, "wrong verdict")]
    assert cells(by_wording(found)) == [["leak: the label is", "2", "2"], ["leak: we were told", "1", "0"]]


@pytest.fixture
def records():
    def one(i: int) -> Record:
        target = Scalar(2.0, -3, 3, 0.2)
        return Record(uid=f"r-{i}", task="studio", split="train", group="s", views={"text": "so"}, target=target)

    return [one(i) for i in range(6)]


def written(run: Path, records: list[Record]) -> Path:
    """Two accepted (one of them leaks), a wrong one, one that is broken, and one without a text."""

    def defect(name: str | None, wording: str | None = None) -> dict:
        return synth(draft={"defect": name, "wording": wording})

    chains = [
        replace(record, rationale=GOOD, meta={"synth": made})
        for record, made in zip(records, [defect(None), defect("leak", "as given")], strict=False)
    ]
    rejected = [
        rejection("r-2", "wrong verdict", GOOD.replace("positive", "negative")) | {"synth": defect("wrong")},
        rejection("r-3", "fault: missing_block", "Sure.") | {"synth": defect("broken", "preamble")},
        rejection("r-4", "no cue could be measured", None),
    ]
    return write_run(run, records, chains, rejected)


def test_drafts_are_read_from_the_files_of_a_run_and_counted_where_the_honest_teacher_is_right(records, tmp_path):
    scripted = written(tmp_path / "scripted", records) / "synth"
    assert drawn(scripted) == [
        Drawn("r-0", None, None, None),
        Drawn("r-1", "leak", "as given", None),
        Drawn("r-2", "wrong", None, "wrong verdict"),
        Drawn("r-3", "broken", "preamble", "fault: missing_block"),
    ]
    parts = synth()["parts"]
    wrong = rejection("r-2", "wrong verdict", GOOD) | {"synth": synth(parts=parts | {"discriminate": 0.0})}
    coarse = rejection("r-1", "answer too far off", GOOD) | {"synth": synth(parts=parts | {"calibrate": 0.89})}
    wordy = rejection("r-3", "too long: 400 words", GOOD) | {"synth": synth()}  # graded right
    honest = write_run(
        tmp_path / "honest",
        records,
        [replace(records[0], rationale=GOOD, meta={"synth": synth()})],
        [coarse, wrong, wordy],
    )
    said = report(honest, [scripted.parent])
    assert said.startswith("2 of 4 drafts are about clips that the honest teacher has right.")
    assert "| wrong |" not in said and "| leak |" not in said and "| broken | 1 | 1 |" in said


def test_every_arm_has_its_drafts_in_the_place_of_the_rationale(records, tmp_path):
    found = pools(written(tmp_path / "scripted", records))
    assert {name: [r.uid for r in pool] for name, pool in found.items()} == {
        "unfiltered": ["r-0", "r-1", "r-2", "r-3"],
        "well-formed": ["r-0", "r-1", "r-2"],
        "filtered": ["r-0", "r-1"],
    }
    assert [r.rationale for r in found["unfiltered"]][2:] == [GOOD.replace("positive", "negative"), "Sure."]


def test_arms_learn_from_as_many_chains_and_what_is_done_is_not_done_again(records, tmp_path, monkeypatch):
    called = []

    def verb(name, log, overrides):
        called.append((name, next((o for o in overrides if o.startswith("hydra.run.dir=")), "").rpartition("=")[2]))
        folder = Path(called[-1][1])
        if name == "data_synth":
            written(folder, records)
        if name == "evaluation":
            write_json(folder / "eval" / "sft" / "stage.json", {"made_from": {}, "result": {}})
        return ""

    monkeypatch.setattr("evidence.synthesis.verb", verb)
    study = Synthesis(tmp_path)
    synthesis.run(study, ARMS, [0, 1], 1)
    assert [(name, str(Path(folder).relative_to(tmp_path)) if folder else "") for name, folder in called] == [
        ("data_synth", "honest"),
        ("data_synth", "teacher/seed0"),
        ("data_synth", "teacher/seed1"),
        ("sft.perception", ""),
        *[
            (name, f"{arm}/seed{seed}")
            for seed in (0, 1)
            for arm in ("unfiltered", "well-formed", "filtered")
            for name in ("sft", "evaluation")
        ],
    ]
    chains = {arm: read_records(study.folder(arm, 0) / "chains.jsonl") for arm in ARMS}
    assert {arm: len(found) for arm, found in chains.items()} == dict.fromkeys(ARMS, 2)  # two were accepted
    assert (study.folder("filtered", 0) / "data").resolve() == tmp_path / "honest" / "data"
    called.clear()
    synthesis.run(study, ARMS, [0, 1], 1)
    assert [name for name, _ in called] == ["sft.perception"]  # which looks for itself whether it is done


def test_its_overrides_are_settings_that_the_verbs_accept():
    for teacher in (("teacher=cue",), ("teacher=scripted", "teacher.seed=3")):
        with initialize_config_dir(CONF, version_base=None):
            cfg = compose("pipeline", overrides=["run.dir=x", *EVERY, *SYNTH, *SFT, *teacher])
        assert section(cfg, "synth", SynthConfig).copy_words == 4
        assert section(cfg, "sft", SFTConfig).save_every == 1000 and section(cfg, "eval", EvalConfig).silence == []
        assert isinstance(make(cfg, "teacher"), Teacher)


def test_an_unknown_arm_of_e6_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["e6", "--arms", "filterd"])
    assert "some of ['unfiltered', 'well-formed', 'filtered']; got ['filterd']" in capsys.readouterr().err
