"""Memory does not grow with the number of records: they are read when their turn comes, and forgotten when they are done."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def peak_mb(count: int, folder: Path, *options: str) -> float:
    """Peak resident memory in MB of a synthesis of `count` texts in a process of its own."""
    program = [sys.executable, str(Path(__file__).with_name("memory_program.py")), str(count), str(folder), *options]
    done = subprocess.run(program, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["asked"], result["accepted"]) == (count, count * 9 // 10)
    return result["peak_kb"] / 1024


@pytest.mark.slow
def test_a_hundred_thousand_records_take_hardly_more_memory_than_ten_thousand(tmp_path):
    few, many = peak_mb(10_000, tmp_path / "few"), peak_mb(100_000, tmp_path / "many")
    files = sum(f.stat().st_size for f in (tmp_path / "many").rglob("*.jsonl")) / 2**20
    print(f"{few:.0f} MB for 10,000 records, {many:.0f} MB for 100,000, which are {files:.0f} MB on disk")
    # a place in the file, a place in the order of asking, a hash of uid and group while they are checked: 90,000 times 40 bytes
    # are 3.4 MB; the rest is what allocators round up
    assert many - few < 16 < files


def test_near_duplicates_are_kept_on_disk(tmp_path):
    few = peak_mb(500, tmp_path / "few", "--near-duplicates")
    many = peak_mb(4000, tmp_path / "many", "--near-duplicates")
    # texts and 25 bands of 5 numbers for each of 3,150 more chains are 4 MB; SQLite keeps at most 2 MB of its file in memory
    assert many - few < 8
