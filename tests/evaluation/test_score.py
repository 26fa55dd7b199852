"""The offline scorer: grading, summaries, the command, and every way a prediction file can be wrong."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from evaluation.score import load_task, main, read_predictions, score_predictions
from runtime.errors import ConfigError, RecordError
from runtime.files import read_jsonl
from tasks.record import Record, read_records, write_records
from tasks.target import Scalar

GOLD = {"a": 2.0, "b": -1.0, "c": 0.0, "d": 1.0}


def completion(verdict: str, answer: float) -> str:
    return (
        f"<discriminate>{verdict}: it sounds so</discriminate><calibrate>a little</calibrate><answer>{answer}</answer>"
    )


def record(uid: str, x: float, split: str = "test") -> Record:
    return Record(
        uid=uid,
        task="studio",
        split=split,
        group=f"{split}-{uid}",
        views={"text": uid},
        target=Scalar(x, -3, 3, 0.2),
        meta={"cues": {}},
    )


RECORDS = [record(uid, x) for uid, x in GOLD.items()]
TRAIN = [record("t1", 1.0, "train"), record("t2", 2.0, "train")]
SAID = {"a": completion("positive", 1.5), "b": completion("positive", 1.0), "c": "no idea", "d": None}


@pytest.fixture(scope="module")
def task():
    return load_task(["task=studio"])


@pytest.fixture
def files(tmp_path):
    """Paths of a record file, of a prediction file (answers that are gold), and of the result."""
    write_records(tmp_path / "R.jsonl", RECORDS + TRAIN)
    write_rows(tmp_path / "P.jsonl", [{"uid": uid, "answer": str(x)} for uid, x in GOLD.items()])
    return tmp_path


def write_rows(path: Path, rows: list) -> None:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))


def arguments(folder: Path, *more: str) -> list[str]:
    names = {"records": "R.jsonl", "predictions": "P.jsonl", "out": "S.json"}
    return ["task=studio", *(f"{k}={folder / v}" for k, v in names.items()), "resamples=20", *more]


def test_scores_by_hand(task):
    result = score_predictions(task, RECORDS, SAID, train=TRAIN, resamples=50)
    assert result["n"] == 4
    # a: 1.5 for 2; b: 1 for -1; c (fault) and d (missing): gold 0 and 1 are replaced by -3: errors 0.5 2 3 4
    assert result["metrics"]["mae"]["value"] == pytest.approx(9.5 / 4)
    assert result["metrics"]["polarity"]["value"] == pytest.approx(1 / 4)
    assert result["metrics"]["unparseable"]["value"] == pytest.approx(2 / 4)
    assert all(m["lo"] <= m["hi"] for m in result["metrics"].values())
    assert result["interval"] == {"level": 0.95, "resamples": 50, "unit": "group", "units": 4}
    assert result["faults"] == {"missing_block": 1, "missing": 1}
    # verdicts: a right, b wrong, c and d nothing; closeness 1 - 0.5/6, 1 - 2/6, 0, 0
    assert result["parts"] == {
        "format": {"mean": 0.5, "n": 4, "unscored": 0},
        "discriminate": {"mean": 0.25, "n": 4, "unscored": 0},
        "calibrate": {"mean": pytest.approx((2 - 2.5 / 6) / 4), "n": 4, "unscored": 0},
        "agreement": {"mean": 0.5, "n": 4, "unscored": 0},
        **{part: {"mean": None, "n": 0, "unscored": 4} for part in ("explanation", "evidence")},
    }
    # the mean of training is 1.5: |2| |-1| |0| |1| are missed by 0.5 2.5 1.5 0.5
    assert result["baseline"]["mae"] == pytest.approx(5 / 4)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_without_training_records_there_is_no_baseline(task):
    assert score_predictions(task, RECORDS, SAID, resamples=5)["baseline"] == {}


def test_an_answer_alone_is_read_without_the_grammar(task):
    result = score_predictions(task, RECORDS, {}, answers={"a": "2", "b": "nine", "c": "0.5", "d": "1"}, resamples=5)
    assert result["faults"] == {"bad_answer": 1}
    assert result["parts"]["format"] == {"mean": None, "n": 0, "unscored": 4}
    assert result["parts"]["agreement"] == {"mean": None, "n": 0, "unscored": 4}
    # sides: a and d right, b unreadable, c says positive for neutral; closeness 1, 0, 1 - 0.5/6, 1
    assert result["parts"]["discriminate"]["mean"] == 0.5
    assert result["parts"]["calibrate"]["mean"] == pytest.approx((3 - 0.5 / 6) / 4)


def test_an_answer_and_its_completion_give_the_same_metrics(task):
    whole = {r.uid: completion(str(r.target.coarse()), 1.25) for r in RECORDS}
    by_completion = score_predictions(task, RECORDS, whole, resamples=20)
    by_answer = score_predictions(task, RECORDS, {}, answers=dict.fromkeys(GOLD, "1.25"), resamples=20)
    assert by_completion["metrics"] == by_answer["metrics"]


def test_scoring_nothing_is_refused(task):
    with pytest.raises(RecordError, match="no records to score; got 0; choose another split"):
        score_predictions(task, [], {})


def test_the_command_writes_the_scores_and_prints_a_table(files, capsys):
    result = main(arguments(files))
    assert json.loads((files / "S.json").read_text()) == result
    assert (result["task"], result["split"], result["n"]) == ("studio", "test", 4)
    assert result["metrics"]["mae"]["value"] == 0.0
    assert result["baseline"]["mae"] == pytest.approx(5 / 4)
    printed = capsys.readouterr().out
    assert "trivial rule" in printed
    assert "1.250" in next(line for line in printed.splitlines() if line.startswith("mae"))
    assert printed.splitlines()[-1] == "4 records; faults: none"


def test_the_command_runs_as_a_module_and_ends_with_one_line_on_an_error(files):
    command = [sys.executable, "-m", "evaluation.score", *arguments(files, "split=dev")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr


def test_numbers_are_accepted_as_answers(files):
    write_rows(files / "P.jsonl", [{"uid": uid, "answer": x} for uid, x in (GOLD | {"c": 1e-7, "d": 1}).items()])
    assert main(arguments(files))["metrics"]["mae"]["value"] == pytest.approx(0, abs=1e-6)


def test_completions_and_answers_may_be_mixed_and_other_fields_are_ignored(files):
    rows = [{"uid": "a", "completion": SAID["a"], "model": "m"}, *({"uid": u, "answer": GOLD[u]} for u in "bcd")]
    write_rows(files / "P.jsonl", rows)
    result = main(arguments(files))
    assert result["metrics"]["mae"]["value"] == pytest.approx(0.5 / 4)
    assert result["parts"]["format"] == {"mean": 1.0, "n": 1, "unscored": 3}


def test_predictions_for_another_split_are_ignored(files):
    write_rows(files / "P.jsonl", [{"uid": u, "answer": 0} for u in (*GOLD, "t1", "t2")])
    assert main(arguments(files))["n"] == 4
    assert main(arguments(files, "split=train"))["n"] == 2


def test_the_grammar_of_the_task_can_be_chosen(files):
    write_rows(files / "P.jsonl", [{"uid": u, "completion": f"<answer>{x}</answer>"} for u, x in GOLD.items()])
    assert main(arguments(files))["faults"] == {"missing_block": 4}
    assert main(arguments(files, "task.grammar=answer"))["faults"] == {}


def test_a_record_without_a_prediction_is_an_error_unless_it_counts_as_wrong(files):
    write_rows(files / "P.jsonl", [{"uid": "a", "answer": "2"}])
    with pytest.raises(
        RecordError,
        match=r"3 of 4 records of split=test have no prediction, for example 'b', 'c', 'd'; add them, or .* missing=wrong",
    ):
        main(arguments(files))
    result = main(arguments(files, "missing=wrong"))
    assert result["faults"] == {"missing": 3}
    assert result["metrics"]["unparseable"]["value"] == 0.75


@pytest.mark.parametrize(
    "row, message",
    [
        ({"uid": "z", "answer": "1"}, r"P.jsonl:2: no record has the uid 'z'; remove the line"),
        ({"uid": "a", "answer": "1"}, r"P.jsonl:2: uid 'a' occurs twice, first in line 1; keep one"),
        ({"uid": "b"}, r"P.jsonl:2: completion or answer is required; got neither; mend"),
        ({"uid": "b", "completion": None}, r"P.jsonl:2: completion or answer is required; got neither"),
        ({"uid": "b", "completion": 0}, r"P.jsonl:2: completion is a string, answer a string or a number; got 0; mend"),
        ({"uid": "b", "answer": True}, r"P.jsonl:2: completion is a string, .*; got True"),
        ({"uid": "b", "answer": ["1"]}, r"P.jsonl:2: completion is a string, .*; got \['1'\]"),
        ({"id": "b", "answer": "1"}, r"P.jsonl:2: an object with the string uid is required; got .*\"id\".*; mend"),
        ("[1]", r"P.jsonl:2: an object with the string uid is required; got '\[1\]'"),
        ('{"uid": "b", ', r"P.jsonl:2: not JSON \(.* at column \d+\); mend or remove the line"),
    ],
)
def test_a_bad_prediction_names_file_line_and_remedy(files, row, message):
    write_rows(files / "P.jsonl", [{"uid": "a", "answer": "2"}, row])
    with pytest.raises(RecordError, match=message):
        read_predictions(files / "P.jsonl", set(GOLD))


def test_a_file_that_is_not_utf8_is_refused(files):
    (files / "P.jsonl").write_bytes(b'{"uid": "a", "answer": "\xff"}')
    with pytest.raises(RecordError, match=r"P.jsonl: byte 24 is not UTF-8; save the file as UTF-8"):
        read_predictions(files / "P.jsonl", set(GOLD))


def test_a_line_separator_inside_a_completion_does_not_end_the_line(files):
    text = "one\u2028two\u0085three"
    write_rows(files / "P.jsonl", [json.dumps({"uid": "a", "completion": text}, ensure_ascii=False)])
    assert read_predictions(files / "P.jsonl", {"a"}) == ({"a": text}, {})


def test_a_line_separator_inside_a_record_does_not_end_the_line(tmp_path):
    odd = replace(RECORDS[0], views={"text": "one\u2028two\u0085three"})
    write_records(tmp_path / "R.jsonl", [odd])
    assert read_records(tmp_path / "R.jsonl") == [odd]
    assert read_jsonl(tmp_path / "R.jsonl") == [odd.to_json()]


@pytest.mark.parametrize("name, message", [("P.jsonl", "no such prediction file"), ("R.jsonl", "no such record file")])
def test_a_missing_file_is_named(files, name, message):
    (files / name).unlink()
    with pytest.raises(RecordError, match=f"{name}: there is {message}"):
        main(arguments(files))


def test_a_split_without_records_says_what_there_is(files):
    with pytest.raises(
        RecordError, match=r"no record has split=dev; got {'test': 4, 'train': 2}; choose another split"
    ):
        main(arguments(files, "split=dev"))


@pytest.mark.parametrize(
    "change, message",
    [
        (["split=validation"], "split: one of train, dev, test; got 'validation'"),
        (["missing=skip"], "missing: one of error, wrong; got 'skip'"),
        (["resamples=0"], "resamples: a whole number from 1 on; got '0'"),
        (["seed=x"], "seed: a whole number from 0 on; got 'x'"),
        (["prediction=P"], r"unknown key 'prediction' \(did you mean 'predictions'\?\)"),
        (["loud"], "loud: settings are key=value; write task=T records=R.jsonl"),
        (["task=nowhere"], r"task=nowhere: .*; tasks: .*studio.*; mend the command"),
        (["task.colour=red"], "colour"),
        (["task.grammar=prose"], "task.grammar: one of .*; got 'prose'; mend the config"),
    ],
)
def test_a_bad_setting_is_refused(files, change, message):
    named = [a for a in arguments(files) if not (a.startswith("task=") and change[0].startswith("task="))]
    with pytest.raises(ConfigError, match=message):
        main([*named, *change])


def test_what_is_required_is_listed():
    with pytest.raises(ConfigError, match="predictions, out, task: required and not given; write task=T"):
        main(["records=R.jsonl"])


def test_a_completion_goes_before_an_answer_so_that_a_runs_own_predictions_can_be_scored(tmp_path):
    path = tmp_path / "P.jsonl"
    path.write_text('{"uid": "a", "completion": "said", "answer": "1"}\n')
    assert read_predictions(path, {"a"}) == ({"a": "said"}, {})
