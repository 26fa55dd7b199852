"""Every file of conf/ composes and becomes its dataclass; whatever is wrong ends in a line for people, not in a traceback."""

import dataclasses
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from verbs import call

import pipeline
from data_synth.teacher import Teacher
from models.load import ModelConfig
from models.session import SECTIONS, RunConfig
from rl.config import STRATEGIES, HintConfig
from runtime.config import check_sections, make, section
from runtime.errors import ConfigError
from runtime.main import CONF
from tasks.base import Task

SCHEMAS = {**pipeline.SCHEMAS, "run": RunConfig, "model": ModelConfig}
VERBS = ("pipeline", "synth", "sft", "rl", "eval")
CHOICES = sorted(f"{path.parent.name}={path.stem}" for path in Path(CONF).glob("*/*.yaml"))
STATED = {"teacher=openai": ["teacher.model=some-model"], "judge=openai": ["judge.model=some-model"]}
"""What a choice leaves to the user."""


def composed(*overrides: str, verb: str = "pipeline") -> DictConfig:
    with initialize_config_dir(CONF, version_base=None):
        return compose(verb, overrides=["run.dir=somewhere", *overrides])


def check_everything(cfg: DictConfig) -> None:
    """All sections are typed, and the task and the teacher can be made."""
    check_sections(cfg, SECTIONS)
    for name, schema in SCHEMAS.items():
        assert isinstance(section(cfg, name, schema), schema)
    assert isinstance(make(cfg, "task"), Task)
    assert isinstance(make(cfg, "teacher"), Teacher)
    pipeline.check(cfg)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_composes_the_same_tree(verb):
    cfg = composed(verb=verb)
    check_everything(cfg)
    assert cfg == composed()


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes_and_becomes_typed(choice, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    check_everything(composed(choice, *STATED.get(choice, [])))


def test_every_verb_has_a_config_and_every_config_a_verb():
    server = "serve"  # a teacher's, which is no part of a run
    assert sorted(path.stem for path in Path(CONF).glob("*.yaml")) == sorted([*VERBS, server])


@pytest.mark.parametrize("schema", SCHEMAS.values())
def test_defaults_have_one_home_and_that_is_conf(schema):
    for field in dataclasses.fields(schema):
        assert field.default is field.default_factory is dataclasses.MISSING, field.name


def test_a_teacher_behind_a_server_wants_its_model_stated():
    with pytest.raises(ConfigError, match=r"config: Missing mandatory value: model; state it, or mend"):
        pipeline.check(composed("teacher=openai"))


def test_a_hint_that_the_grammar_cannot_carry_is_refused_before_any_work():
    with pytest.raises(
        ConfigError, match=r"hint\.strategy=polarity: .* grammar 'think' .* use task\.grammar=dc, or hint"
    ):
        pipeline.check(composed("task.grammar=think"))
    pipeline.check(composed("task.grammar=think", "hint=none"))


def test_hints_in_the_question_go_with_any_grammar():
    for hint in ("query", "self"):
        pipeline.check(composed("task.grammar=think", f"hint={hint}"))


def test_every_hint_strategy_has_a_file_that_changes_the_knobs_of_none():
    plain = section(composed("hint=none"), "hint", HintConfig)
    assert plain.strategy == "none"
    for strategy in set(STRATEGIES) - {"none"}:
        assert section(composed(f"hint={strategy}"), "hint", HintConfig).strategy == strategy
    for path in (Path(CONF) / "hint").glob("*.yaml"):
        stated = {name: value for name, value in OmegaConf.load(path).items() if name != "defaults"}
        same = {name for name, value in stated.items() if value == getattr(plain, str(name))}
        assert same == (set(stated) if path.stem == "none" else set()), path.name
        assert path.stem != "none" or set(stated) == {field.name for field in dataclasses.fields(HintConfig)}


WRONG = {
    "a key that Hydra knows not": (["rl.grup=4"], "Key 'grup' is not in struct"),
    "a new key": (["+rl.grup=4"], "error: rl: unknown key 'grup' (did you mean 'group'?); allowed: accumulation,"),
    "a new section": (["+rll.group=4"], "error: config: unknown key 'rll' (did you mean 'rl'?); allowed: baseline,"),
    "an unknown task": (["task=studdio"], "Could not find 'task/studdio'"),
    "a key of the task": (["+task.trian=4"], "error: task: unknown key 'trian' (did you mean 'train'?); allowed:"),
    "a type": (
        ["rl.group=many"],
        "error: rl.group: Value 'many' of type 'str' could not be converted to Integer; mend",
    ),
    "a type in the task": (["task.train=many"], "error: task.train: must be int; got 'many'; mend the config"),
    "a range": (["sft.lr=0"], "error: sft: lr > 0, warmup and holdout in [0, 1); got lr=0.0"),
    "a range in the task": (["task.conflict=2"], "error: task.conflict: a share in [0, 1], or null; got 2; mend"),
    "a seed": (["seed=-1"], "error: synth.seed: 0 or more; got -1; mend the config"),
    "no seed": (["seed=x", "synth.seed=0"], "error: seed: a whole number in [0, 2**32); got 'x'; mend the config"),
    "a missing value": (
        ["teacher=openai"],
        "error: config: Missing mandatory value: model; state it, or mend the config",
    ),
    "a variable": (["run.project=${oc.env:NOWHERE}"], "Environment variable 'NOWHERE' not found"),
    "a group of the teacher": (
        ["teacher.edge=high"],
        "error: teacher.edge: must be float; got 'high'; mend the config",
    ),
    "a bracket": (["task.views=[audio"], "no viable alternative at input '[audio'"),
    "a section in an experiment": (
        ["experiment=section"],
        "error: sft: unknown key 'batchsize' (did you mean 'batch'?)",
    ),
    "the top of an experiment": (
        ["experiment=top"],
        "error: config: unknown key 'sfft' (did you mean 'sft'?); allowed:",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_ends_in_a_message_without_a_traceback(name, tmp_path):
    overrides, message = WRONG[name]
    experiments = tmp_path / "conf" / "experiment"
    experiments.mkdir(parents=True)
    (experiments / "section.yaml").write_text("# @package _global_\nsft:\n  batchsize: 4\n")
    (experiments / "top.yaml").write_text("# @package _global_\nsfft:\n  batch: 4\n")
    arguments = ["--config-dir", str(tmp_path / "conf"), f"hydra.run.dir={tmp_path / 'run'}", *overrides]
    outcome = call("pipeline", arguments, tmp_path / "log", {"UNDERTONE_CACHE": str(tmp_path / "cache")})
    assert outcome.code == 1
    assert message in outcome.text
    assert "Traceback" not in outcome.text and "Error executing job" not in outcome.text
    if message.startswith("error:"):
        assert outcome.text.startswith("error:") and outcome.text.count("\n") == 1
    assert not (tmp_path / "run" / "data").exists() and not (tmp_path / "cache").exists(), (
        "refused only after work was done"
    )
