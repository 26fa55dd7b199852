"""What a preflight finds, each with what to do; and nothing where nothing is wrong."""

import socket
import sys

import pytest
from omegaconf import OmegaConf

from runtime import preflight
from runtime.preflight import findings, gpus_missing, main, packages


@pytest.fixture
def config(tmp_path):
    """A frozen config whose inputs are all there."""

    def write(**inputs):
        path = tmp_path / "run" / "frozen-rl.yaml"
        path.parent.mkdir(exist_ok=True)
        OmegaConf.save({"rl": {"init": None, "chains": None}, "task": {"data": str(tmp_path)}, **inputs}, path)
        return path

    return write


def test_nothing_is_found_where_nothing_is_wrong(config):
    path = config()
    assert findings(path, 0, 0, None) == []
    assert [p.name for p in path.parent.iterdir()] == ["frozen-rl.yaml"]  # nor is anything left behind


def test_inputs_that_are_not_there(config):
    path = config(sft={"init": "/no/where", "batch": 3}, eval={"init": "/not/here"}, model={"source": "Qwen/a"})
    assert findings(path, 0, 0, None) == [
        f"{name}: there is nothing here; mend the path, or copy it to where this node can read it"
        for name in ("sft.init=/no/where", "eval.init=/not/here")
    ]


def test_a_disk_that_is_nearly_full(config):
    path = config()
    (found,) = findings(path, 1e9, 0, None)
    assert found.startswith(f"{path.parent}: ") and "GB are free, 1e+09 are wanted (--free-gb); delete old" in found


def test_a_folder_that_cannot_be_written(config, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    path = config()
    monkeypatch.setattr(preflight.Path, "write_text", refuse)
    (found,) = findings(path, 0, 0, None)
    why = "cannot be written (Permission denied); choose another hydra.run.dir, or mend its rights or quota"
    assert found == f"{path.parent}: {why}"


def test_a_port_that_somebody_listens_on(config):
    path = config()
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        (found,) = findings(path, 0, 0, port)
    assert found.startswith(f"port {port}: Address already in use; submit again")
    assert findings(path, 0, 0, port) == []


def test_packages_that_are_missing_or_of_another_version(tmp_path, monkeypatch):
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\ndependencies = ["omegaconf==2.3.*", "omegaconf>=99", "no-such-package"]\n')
    monkeypatch.setattr(preflight, "PROJECT", project)
    old, missing = packages()
    assert old.startswith("omegaconf: version 2.3.") and old.endswith(" where >=99 is needed; run `make setup`")
    assert (
        missing
        == f"no-such-package: not installed in {sys.prefix}; run `make setup`, or name the environment with VENV=FOLDER"
    )


def test_gpus_that_torch_does_not_see():
    assert list(gpus_missing(0)) == []
    (found,) = gpus_missing(64)
    assert found.startswith("GPUs: SLURM gave 64, torch ") and "look at nvidia-smi and CUDA_VISIBLE_DEVICES" in found


def test_the_command_prints_every_finding_and_fails(config, monkeypatch, capsys):
    path = config(sft={"init": "/no/where"}, eval={"init": "/not/here"})
    monkeypatch.setattr(sys, "argv", ["preflight", str(path), "--free-gb", "0"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith(f"preflight on {socket.gethostname()}: ") for line in lines)


def test_a_config_that_was_not_frozen(tmp_path):
    (found,) = findings(tmp_path / "frozen-rl.yaml", 0, 0, None)
    assert found.startswith(
        f"{tmp_path}/frozen-rl.yaml: there is no such config; write it with `python -m runtime.frozen"
    )
