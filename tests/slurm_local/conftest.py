"""A real SLURM of two nodes on this machine, for all tests of this folder; without slurmctld they are skipped."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cases import Cluster
from verbs import ROOT

SBIN = "/usr/sbin:/sbin"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two nodes, up for as long as the tests of this folder take."""
    if shutil.which("slurmctld", path=f"{os.environ['PATH']}:{SBIN}") is None:
        pytest.skip("there is no slurmctld; on Debian: apt-get install slurm-wlm")
    folder = Path(tempfile.mkdtemp(prefix="slurm"))  # a short path: it holds sockets
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = (
            10000 + probe.getsockname()[1] % 20000
        )  # another one for each session, below those of passing connections
    environment = os.environ | {"PORT": str(port), "NODES": "2", "CPUS": "4"}
    local = ROOT / "slurm" / "local"
    try:
        up = subprocess.run([str(local / "up.sh"), str(folder)], env=environment, capture_output=True, text=True)
        assert up.returncode == 0, up.stderr
        yield Cluster(
            folder,
            os.environ
            | {
                "SLURM_CONF": str(folder / "slurm.conf"),
                "PATH": f"{local / 'bin'}:{os.environ['PATH']}",
                "VENV": sys.prefix,
                "PREFLIGHT": "--free-gb=1",
                "UNDERTONE_CACHE": str(folder / "cache"),
                "GLOO_SOCKET_IFNAME": "lo",  # both nodes are this machine
                "OMP_NUM_THREADS": "1",
                "HF_HUB_OFFLINE": "1",
            },
        )
    finally:
        subprocess.run([str(local / "down.sh"), str(folder)], check=True)
        shutil.rmtree(folder)
