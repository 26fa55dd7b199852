"""The tiny corpora as fixtures."""

import os
from pathlib import Path

import pytest
from tiny_corpora import write_all


@pytest.fixture
def corpora(tmp_path: Path) -> Path:
    """A folder with every tiny corpus."""
    write_all(tmp_path / "corpora")
    return tmp_path / "corpora"


@pytest.fixture
def data_from(corpora: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configs find the tiny corpora."""
    monkeypatch.setenv("UNDERTONE_DATA", os.fspath(corpora))
    return corpora
