"""Shared fixtures. Real data is looked for, never downloaded; tests that need it skip with the reason."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[1]

settings.register_profile("undertone", deadline=None, derandomize=True)  # the same examples everywhere, on slow machines too
settings.load_profile("undertone")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real corpora."""
    named = os.environ.get("UNDERTONE_DATA")
    places = [Path(named)] if named else [ROOT.parent / "shared" / "data", ROOT / "shared" / "data"]
    for place in places:
        if (place / "README.md").is_file():
            return place
    pytest.skip("real data not found; set UNDERTONE_DATA to the folder that holds its README")
