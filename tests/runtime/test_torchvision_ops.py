"""torchvision imports in every process of an environment, whatever its compiled part does."""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

import runtime.torchvision_ops as ops

SITE = Path(sysconfig.get_path("purelib"))


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_omni_processor_imports_in_a_process_that_never_heard_of_us(tmp_path):
    code = "from transformers import Qwen2_5OmniProcessor, Qwen2VLVideoProcessor; print(Qwen2_5OmniProcessor.__name__)"
    assert run(sys.executable, "-c", code, cwd=tmp_path) == "Qwen2_5OmniProcessor"


def test_without_the_pth_file_ensure_alone_is_enough_even_after_a_failed_import(tmp_path):
    # -S skips site-packages and so every .pth file; the folders are then added by hand
    code = f"""
import sys; sys.path += [{str(SITE)!r}, {str(Path(ops.__file__).parents[1])!r}]
try:
    import torchvision
except RuntimeError as error:
    assert "nms" in str(error)
import runtime.torchvision_ops as ops; ops.ensure(); ops.ensure()
assert len([f for f in sys.meta_path if type(f).__name__ == "_BeforeMetaRegistrations"]) == 1
import torch, torchvision
from torchvision.transforms.v2.functional import resize
print(tuple(resize(torch.zeros(4, 3, 60, 80, dtype=torch.uint8), [28, 56]).shape))
"""
    assert run(sys.executable, "-S", "-c", code, cwd=tmp_path) == "(4, 3, 28, 56)"


def test_operators_that_exist_are_left_alone(monkeypatch):
    import torchvision  # noqa: F401  (declares or loads them)

    monkeypatch.setattr(ops, "_libraries", [])
    ops._declare_missing()
    assert ops._libraries == []


def test_installing_is_repeatable_and_removable_and_imports_nothing_heavy(tmp_path):
    home = tmp_path / "env"
    venv.create(home, with_pip=False, symlinks=True)
    python = str(home / "bin" / "python")
    file = ops.__file__
    for _ in range(2):
        run(python, file, cwd=tmp_path)
    seen = "import sys; print('torch' in sys.modules, type(sys.meta_path[0]).__name__)"
    assert run(python, "-c", seen, cwd=tmp_path) == "False _BeforeMetaRegistrations"
    assert len(list(home.rglob("undertone_torchvision.p*"))) == 3 - 1
    for _ in range(2):
        run(python, file, "--remove", cwd=tmp_path)
    assert run(python, "-c", seen, cwd=tmp_path).startswith("False ")
    assert not [p for p in home.rglob("undertone_torchvision.*") if p.suffix in (".py", ".pth")]


def test_an_unknown_argument_names_the_usage():
    with pytest.raises(SystemExit, match=r"unknown arguments \['--delete'\]; usage: .*--remove"):
        ops.main(["--delete"])
