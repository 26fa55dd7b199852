"""A config that was composed once is read back as it was, and what has changed is no longer done."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from runtime.errors import ConfigError
from runtime.frozen import compose_and_freeze, done_file, is_done
from runtime.main import CONF


def read_back(folder, verb="rl"):
    with initialize_config_dir(str(folder), version_base=None):
        return compose(f"frozen-{verb}", return_hydra_config=True)


def test_what_is_read_back_is_what_was_composed(tmp_path):
    asked = ["hint=polarity", "seed=3", f"hydra.run.dir={tmp_path}/a", "run.tags=['b=c,d']"]
    assert compose_and_freeze("rl", asked) == tmp_path / "a"
    with initialize_config_dir(CONF, version_base=None):
        wanted = compose("rl", [*asked, f"run.dir={tmp_path}/a"])
    found = read_back(tmp_path / "a")
    assert found.hydra.run.dir == f"{tmp_path}/a" and found.hydra.output_subdir is None
    settings = {key: value for key, value in OmegaConf.to_container(found).items() if key != "hydra"}
    assert settings == OmegaConf.to_container(wanted, resolve=True)
    assert found.hint.strategy == "polarity" and found.run.tags == ["b=c,d"]


def test_the_folder_follows_from_the_name_of_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = compose_and_freeze("sft", ["run.name=some"])
    assert str(folder) == "outputs/some"
    assert read_back(tmp_path / folder, "sft").run.dir == str(tmp_path / "outputs" / "some")


def test_another_config_is_not_done_and_the_same_one_still_is(tmp_path):
    asked = [f"hydra.run.dir={tmp_path}"]
    compose_and_freeze("rl", asked)
    done_file(tmp_path, "rl").touch()
    compose_and_freeze("rl", asked)
    assert is_done(tmp_path, "rl") and not is_done(tmp_path, "sft")
    compose_and_freeze("rl", [*asked, "seed=1"])
    assert not is_done(tmp_path, "rl")


def test_what_is_still_to_be_stated_stays_so(tmp_path):
    compose_and_freeze("data_synth", [f"hydra.run.dir={tmp_path}", "teacher=openai"])
    assert OmegaConf.is_missing(read_back(tmp_path, "data_synth").teacher, "model")


def test_a_key_is_not_written_down(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "not-for-files")
    with pytest.raises(ConfigError, match=r"config run\.tags: holds a secret, .*name that in api_key_env"):
        compose_and_freeze("rl", [f"hydra.run.dir={tmp_path}", "run.tags=[not-for-files]"])
    assert not (tmp_path / "frozen-rl.yaml").exists()


def test_overrides_that_do_not_compose_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"config: .*colour.*; mend the overrides hydra.run.dir=\S+ colour=red"):
        compose_and_freeze("rl", [f"hydra.run.dir={tmp_path}", "colour=red"])
