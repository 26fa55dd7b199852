"""A sweep as a table: what each member was given, how far it is, and what it scored."""

import pytest
from omegaconf import OmegaConf

from evaluation.sweep import main, objective, read_sweep, table
from runtime.errors import ConfigError, StageError
from runtime.files import write_json, write_jsonl


def member(sweep, name, stage, rows=(), **result):
    """A member that has begun a stage, and finished it where it has a result."""
    run = sweep / name
    (run / stage).mkdir(parents=True)
    OmegaConf.save({"rl": {"max_steps": 40}, "sft": {"max_steps": 9}}, run / "config.yaml")
    write_json(run / stage / "stage.json", {"made_from": {}} | ({"result": result} if result else {}))
    if rows:
        write_jsonl(run / stage / "metrics.jsonl", rows)
    return run


@pytest.fixture
def sweep(tmp_path):
    """One member evaluated, one trained, one cut off, one not begun."""
    scored = {"metrics": {"corr": {"value": 0.51234, "lo": 0, "hi": 1}}, "parts": {"calibrate": 0.7}}
    member(tmp_path, "debug=smoke,hint=none,seed=1", "eval/rl", **scored)
    rows = [
        {"step": 1, "reward": 0.25},
        {"step": 2, "reward": 0.5, "dev/calibrate": 0.6, "dev/canary/blind": 1.0, "lr": 1.0},
    ]
    member(tmp_path, "debug=smoke,hint=none,seed=2", "rl", rows, steps=40)
    member(tmp_path, "debug=smoke,hint=polarity,seed=1", "rl", rows[:1])
    waiting = tmp_path / "debug=smoke,hint=polarity,seed=2"
    waiting.mkdir()
    (waiting / "frozen-rl.yaml").write_text("seed: 2\n")
    return tmp_path


def test_a_row_for_each_member_with_what_sets_it_apart(sweep):
    assert table(read_sweep(sweep)) == [
        ["hint", "seed", "state", "corr", "reward", "dev/calibrate"],
        ["none", "1", "evaluation done", "0.5123", "-", "-"],
        ["none", "2", "rl done", "-", "0.5", "0.6"],
        ["polarity", "1", "rl 1 of 40", "-", "0.25", "-"],
        ["polarity", "2", "not begun", "-", "-", "-"],
    ]


def test_the_command_prints_a_table_or_comma_separated_values(sweep):
    lines = main([str(sweep), "--metrics", "reward"]).splitlines()
    assert lines[0].split() == ["hint", "seed", "state", "reward"] and len(lines) == 5
    assert main([str(sweep), "--metrics", "reward,corr", "--csv"]).splitlines()[1:3] == [
        "none,1,evaluation done,-,0.5123",
        "none,2,rl done,0.5,-",
    ]
    with pytest.raises(
        ConfigError, match=r"--metrics: no member has \['mae'\]; there are \['corr', 'reward', 'dev/calibrate'\]"
    ):
        main([str(sweep), "--metrics", "mae"])


def test_commas_inside_a_value_do_not_cut_it(tmp_path):
    for name in ("a=[x,y],b={c:1,d:2}", "a='x,y',b=2"):
        member(tmp_path, name, "sft", loss=1.0)
    assert [row[:2] for row in table(read_sweep(tmp_path))] == [["a", "b"], ["'x,y'", "2"], ["[x,y]", "{c:1,d:2}"]]


def test_a_stage_that_has_not_logged_yet_has_begun(tmp_path):
    member(tmp_path, "seed=1", "sft")
    assert [m.state for m in read_sweep(tmp_path)] == ["sft begun"]


def test_a_folder_without_members_is_refused(tmp_path):
    with pytest.raises(StageError, match="no member of a sweep in here; name the folder that"):
        read_sweep(tmp_path)


def test_what_a_sweeper_looks_at(sweep, tmp_path):
    first, second, third, fourth = (m.folder for m in read_sweep(sweep))
    assert objective(first, "evaluation") == objective(first, "pipeline") == 0.7
    assert objective(second, "rl") == 0.6
    assert objective(third, "rl") is None and objective(fourth, "evaluation") is None
    assert objective(member(tmp_path, "x", "sft", loss=2.0, eval_loss=1.5), "sft") == 1.5
    assert objective(member(tmp_path, "y", "synth", accepted=3, asked=4), "data_synth") == 0.75
