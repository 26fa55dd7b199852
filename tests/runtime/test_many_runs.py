"""Several members in one process, several ranks in one folder: one that fails does not end the others, and one alone writes."""

import pytest
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.utils import create_config_search_path
from hydra.core.utils import JobStatus
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from runtime.errors import StageError
from runtime.main import CONF, command, folder_name
from runtime.run import run_stage


@command
def member(cfg: DictConfig) -> int:
    """Fails with the first seed."""
    if cfg.seed == 1:
        raise StageError("lacks its input")
    return cfg.seed


def test_a_member_that_fails_on_a_users_mistake_does_not_end_the_sweep(tmp_path):
    loader = ConfigLoaderImpl(create_config_search_path(CONF))
    asked = ["hydra.mode=MULTIRUN", f"hydra.sweep.dir={tmp_path}"]  # as `-m` says it
    cfg = loader.load_configuration("rl", asked, RunMode.MULTIRUN)
    launcher = BasicLauncher()
    context = HydraContext(config_loader=loader, callbacks=Callbacks())
    launcher.setup(hydra_context=context, task_function=member, config=cfg)
    first, second = launcher.launch([["seed=1"], ["seed=2"]], 0)
    assert (first.status, second.status) == (JobStatus.FAILED, JobStatus.COMPLETED)
    assert second.return_value == 2
    with pytest.raises(StageError, match="lacks its input"):
        _ = first.return_value


def test_members_with_very_many_overrides_have_folders_of_their_own(tmp_path):
    loader = ConfigLoaderImpl(create_config_search_path(CONF))
    cfg = loader.load_configuration("rl", ["hydra.mode=MULTIRUN", f"hydra.sweep.dir={tmp_path}"], RunMode.MULTIRUN)
    launcher = BasicLauncher()
    launcher.setup(
        hydra_context=HydraContext(config_loader=loader, callbacks=Callbacks()), task_function=member, config=cfg
    )
    many = ["run.project=" + 300 * "e", "rl.lr=0.001"]
    first, second, few = launcher.launch([[*many, "seed=2"], [*many, "seed=3"], ["seed=2"]], 0)
    assert (first.return_value, second.return_value, few.return_value) == (2, 3, 2)
    names = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert len(names) == 3 and names[2] == "seed=2"
    assert all(name.startswith("rl.lr=0.001,run.project=ee") and len(name) == 255 for name in names[:2])


def test_a_folder_name_is_cut_between_letters():
    name = folder_name(200 * "é")  # two bytes each
    assert name.startswith(100 * "é" + "é") and len(name.encode()) in (254, 255)
    assert folder_name(127 * "é") == 127 * "é"


def test_the_first_rank_alone_writes_what_a_stage_came_to(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert run_stage(tmp_path / "rl", {}, {}, lambda: {"steps": 3})["steps"] == 3
    assert not (tmp_path / "rl").exists()
    monkeypatch.setenv("RANK", "0")
    run_stage(tmp_path / "rl", {}, {}, lambda: {"steps": 3})
    assert (tmp_path / "rl" / "stage.json").is_file()
