"""Stages are done once and guarded by what made them; files are whole or absent; settings are typed and refused early."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from runtime.checkpoints import last_checkpoint
from runtime.config import check_sections, make, section
from runtime.errors import ConfigError, StageError
from runtime.files import digest, read_jsonl, sha256, write_json, write_jsonl, write_text
from runtime.main import command
from runtime.run import finished, run_stage

# Stages


def test_a_stage_is_done_once_and_remembered(tmp_path, capsys):
    calls = []

    def work():
        calls.append(1)
        return {"loss": 0.5}

    first = run_stage(tmp_path / "sft", {"lr": 1e-3}, {}, work)
    assert first == {"loss": 0.5, "seconds": first["seconds"]}
    assert run_stage(tmp_path / "sft", {"lr": 1e-3}, {}, work) == first and len(calls) == 1
    started, skipped = capsys.readouterr().out.splitlines()
    assert started == f"== {tmp_path / 'sft'}" and skipped == f"== {tmp_path / 'sft'}: done before, skipped"


def test_a_stage_that_was_cut_off_is_done_again(tmp_path, capsys):
    def dies():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path, {"lr": 1e-3}, {}, dies)
    assert run_stage(tmp_path, {"lr": 1e-3}, {}, lambda: {"loss": 0.5})["loss"] == 0.5
    assert capsys.readouterr().out.splitlines()[1].endswith(": was cut off, goes on")


def test_other_settings_are_refused_and_what_changed_is_named(tmp_path):
    run_stage(tmp_path, {"rl": {"lr": 1e-3, "group": 8}, "seed": 0}, {}, dict)
    with pytest.raises(StageError) as caught:
        run_stage(tmp_path, {"rl": {"lr": 1e-3, "group": 4}, "seed": 0, "new": True}, {}, dict)
    text = str(caught.value)
    assert "settings.rl.group: was 8, now 4" in text and "settings.new: was None, now True" in text
    assert "seed" not in text and "lr" not in text
    assert "choose another run.name" in text and f"delete {tmp_path}" in text


def test_settings_that_a_cut_off_stage_began_with_count_too(tmp_path):
    with pytest.raises(KeyError):
        run_stage(tmp_path, {"lr": 1}, {}, lambda: {}["nothing"])
    with pytest.raises(StageError, match=r"settings\.lr: was 1, now 2"):
        run_stage(tmp_path, {"lr": 2}, {}, dict)


def test_a_stage_that_keeps_what_is_dear_is_done_anew_with_other_settings(tmp_path, capsys):
    run_stage(tmp_path, {"rules": {"words": 2}, "seed": 0}, {}, lambda: {"kept": 5}, anew=True)
    assert run_stage(tmp_path, {"rules": {"words": 3}, "seed": 0}, {}, lambda: {"kept": 4}, anew=True)["kept"] == 4
    said = capsys.readouterr().out.splitlines()[1]
    assert said.endswith(": was made with other settings (settings.rules.words), done anew")
    again = run_stage(tmp_path, {"rules": {"words": 3}, "seed": 0}, {}, lambda: pytest.fail("done"), anew=True)
    assert again["kept"] == 4
    with pytest.raises(StageError, match=r"settings\.rules\.words: was 3, now 2"):
        run_stage(tmp_path, {"rules": {"words": 2}, "seed": 0}, {}, dict)


def test_a_stage_that_stopped_before_its_time_goes_on(tmp_path, capsys):
    results = iter([{"kept": 3, "stopped": "budget"}, {"kept": 5, "stopped": None}])
    for kept in (3, 5, 5):
        assert run_stage(tmp_path, {}, {}, lambda: next(results))["kept"] == kept
        assert finished(tmp_path) == (kept == 5)
    ends = [line.removeprefix(f"== {tmp_path}") for line in capsys.readouterr().out.splitlines()]
    assert ends == ["", ": was cut off, goes on", ": done before, skipped"]


def test_inputs_count_by_content_and_not_by_place(tmp_path):
    one, same, other = tmp_path / "a.jsonl", tmp_path / "moved" / "b.jsonl", tmp_path / "c.jsonl"
    for path, text in ((one, "x"), (same, "x"), (other, "y")):
        write_text(path, text)
    run_stage(tmp_path / "s", {}, {"records": one}, dict)
    run_stage(tmp_path / "s", {}, {"records": same}, lambda: pytest.fail("content is the same"))
    with pytest.raises(StageError, match=r"inputs\.records: was '\w{16}', now '\w{16}'"):
        run_stage(tmp_path / "s", {}, {"records": other}, dict)


def test_a_checkpoint_counts_by_its_weights_and_config(tmp_path):
    folder = tmp_path / "final"
    write_text(folder / "model.safetensors", "weights")
    write_text(folder / "config.json", "{}")
    write_text(folder / "README.md", "a")
    run_stage(tmp_path / "s", {}, {"init": folder}, dict)
    write_text(folder / "README.md", "b")
    run_stage(tmp_path / "s", {}, {"init": folder}, lambda: pytest.fail("weights are the same"))
    write_text(folder / "model.safetensors", "other weights")
    with pytest.raises(StageError, match=r"inputs\.init"):
        run_stage(tmp_path / "s", {}, {"init": folder}, dict)


def test_an_input_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StageError, match=r"input 'init': nothing at .*gone; run the stage that writes it, or mend"):
        run_stage(tmp_path / "s", {}, {"init": tmp_path / "gone"}, dict)
    assert not (tmp_path / "s").exists()


# Files


def test_a_file_that_could_not_be_written_leaves_the_old_one(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_lines_are_written_as_they_come_and_the_old_file_stays_until_the_last(tmp_path):
    path = tmp_path / "a.jsonl"
    write_jsonl(path, [1, 2])

    def rows():
        yield 3
        assert path.read_text() == "1\n2\n"
        raise KeyError("torn")

    with pytest.raises(KeyError):
        write_jsonl(path, rows())
    assert path.read_text() == "1\n2\n" and [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


def test_jsonl_keeps_text_with_every_kind_of_line_end(tmp_path):
    rows = [{"text": "one\u2028two\x85three\r\nfour"}, {"text": "ä"}]
    write_jsonl(tmp_path / "new" / "a.jsonl", rows)
    assert read_jsonl(tmp_path / "new" / "a.jsonl") == rows


def test_hashes_are_those_of_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert (
        sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )  # FIPS 180-2, B.1
    assert digest({"b": 1, "a": [2]}) == digest({"a": [2], "b": 1}) != digest({"a": [2], "b": 2})


# Checkpoints


def test_the_newest_whole_checkpoint_is_taken_and_torn_ones_go(tmp_path):
    for step, state in ((9, "{}"), (10, "{}"), (100, None), (200, '{"global_st')):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").touch()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"  # 10 > 9, though not as text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-9"]


def test_without_a_whole_checkpoint_training_starts_anew(tmp_path):
    assert last_checkpoint(tmp_path / "never made") is None
    (tmp_path / "checkpoint-5").mkdir()
    assert last_checkpoint(tmp_path) is None and not list(tmp_path.iterdir())


# Settings


@dataclass
class Inner:
    width: int


@dataclass
class Schema:
    lr: float
    steps: int
    init: str | None
    inner: Inner | None
    names: list[str]

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ConfigError(f"opt.lr: above 0; got {self.lr}; mend the config")


GOOD = {"lr": 1, "steps": 3, "init": None, "inner": {"width": 2}, "names": ["a"]}


def config(**changes: object) -> DictConfig:
    return OmegaConf.create({"seed": 7, "opt": {**GOOD, **changes}})


def test_a_section_becomes_its_dataclass_with_interpolations_resolved():
    found = section(config(steps="${seed}"), "opt", Schema)
    assert found == Schema(1.0, 7, None, Inner(2), ["a"]) and isinstance(found.lr, float)
    assert section(config(inner=None), "opt", Schema).inner is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"stepz": 1},
            r"opt: unknown key 'stepz' \(did you mean 'steps'\?\); allowed: init, inner, lr, names, steps; mend",
        ),
        ({"steps": "many"}, r"opt\.steps: Value 'many' of type 'str' could not be converted to Integer; mend"),
        ({"steps": None}, r"opt\.steps: Incompatible value 'None' for field of type 'int'; mend"),
        ({"inner": {"width": "wide"}}, r"opt\.inner\.width: Value 'wide'.*; mend"),
        ({"inner": {"widht": 1}}, r"opt\.inner.*: Key 'widht' not in 'Inner'; mend"),
        ({"lr": 0}, r"opt\.lr: above 0; got 0\.0; mend the config"),
        ({"steps": "???"}, r"config: .*mandatory value.*steps.*; state it, or mend the config"),
        ({"steps": "${nowhere}"}, r"config: .*nowhere.*; state it, or mend the config"),
    ],
)
def test_a_bad_setting_is_refused_by_name(changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        section(config(**changes), "opt", Schema)
    assert "\n" not in str(caught.value)


def test_missing_keys_sections_and_unknown_sections_are_refused():
    short = config()
    del short.opt["lr"]
    with pytest.raises(ConfigError, match=r"opt: missing \['lr'\]; every default has one home, conf/opt/\*\.yaml; add"):
        section(short, "opt", Schema)
    with pytest.raises(ConfigError, match="there is no section 'optim'; add the group to the defaults list"):
        section(config(), "optim", Schema)
    check_sections(config(), ["opt", "seed", "more"])
    with pytest.raises(ConfigError, match=r"config: unknown key 'opt' \(did you mean 'opts'\?\); allowed: opts, seed"):
        check_sections(config(), ["opts", "seed"])


class Made:
    """Stands for a task or teacher."""

    def __init__(self, *, name: str, names: Sequence[str], limit: Mapping[str, int | None], share: float = 0.5) -> None:
        self.got = (name, names, limit, share)
        if share > 1:
            raise ConfigError(f"made.share: at most 1; got {share}; mend the config")


def made(**changes: object) -> DictConfig:
    plain = {"_target_": f"{__name__}.Made", "name": "x", "names": ["a"], "limit": {"train": None, "dev": 3}}
    return OmegaConf.create({"made": plain | changes})


def test_an_object_is_made_from_its_section_with_plain_values():
    name, names, limit, share = make(made(), "made").got
    assert (name, names, limit, share) == ("x", ["a"], {"train": None, "dev": 3}, 0.5)
    assert type(names) is list and type(limit) is dict
    assert make(made(share=1), "made").got[3] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"shear": 1},
            r"made: unknown key 'shear' \(did you mean 'share'\?\); allowed: limit, name, names, share; mend",
        ),
        ({"share": "half"}, r"made\.share: must be float; got 'half'; mend"),
        ({"share": True}, r"made\.share: must be float; got True; mend"),
        ({"names": "a"}, r"made\.names: must be Sequence\[str\]; got 'a'; mend"),
        ({"names": [1]}, r"made\.names: must be Sequence\[str\]; got \[1\]; mend"),
        ({"limit": {"train": 0.5}}, r"made\.limit: must be Mapping\[str, int \| None\]; got \{'train': 0\.5\}; mend"),
        ({"name": None}, r"made\.name: must be str; got None; mend"),
        ({"name": "???"}, r"config: .*mandatory value.*name"),
        ({"share": 2}, r"made\.share: at most 1; got 2; mend the config"),
        ({"_target_": "runtime.Nobody"}, r"made\._target_: 'runtime\.Nobody' cannot be imported \(KeyError"),
        ({"_target_": "nobody.Nobody"}, r"made\._target_: 'nobody\.Nobody' cannot be imported \(ModuleNotFound"),
    ],
)
def test_an_object_is_not_made_from_bad_settings(changes, message):
    with pytest.raises(ConfigError, match=message):
        make(made(**changes), "made")


def test_an_object_needs_every_key_that_has_no_default():
    short = made()
    del short.made["names"]
    with pytest.raises(ConfigError, match=r"made: missing \['names'\]; every default has one home, conf/made/\*\.yaml"):
        make(short, "made")


# Commands


def end_of(error: Exception) -> SystemExit:
    @command
    def main(cfg: DictConfig) -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        main(OmegaConf.create({}))
    return caught.value


def test_a_users_mistake_ends_a_command_with_one_line():
    assert end_of(ConfigError("rl.group: 2 or more")).code == "error: rl.group: 2 or more"
    with pytest.raises(Exception, match="nowhere") as caught:
        _ = OmegaConf.create({"a": "${nowhere}"}).a
    said = end_of(caught.value).code
    assert isinstance(said, str) and said.startswith("error: config: ") and "nowhere" in said and "\n" not in said


def test_a_bug_keeps_its_traceback():
    @command
    def main(cfg: DictConfig) -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        main(OmegaConf.create({}))


def test_a_command_says_what_it_returns():
    assert command(lambda cfg: cfg.a)(OmegaConf.create({"a": 3})) == 3
    assert Path(sys.modules["runtime.main"].CONF, "pipeline.yaml").is_file()


def test_a_stage_that_was_cut_off_is_not_finished(tmp_path):
    assert not finished(tmp_path)

    def cut() -> dict:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path, {}, {}, cut)
    assert (tmp_path / "stage.json").is_file() and not finished(tmp_path)
    run_stage(tmp_path, {}, {}, dict)
    assert finished(tmp_path)
