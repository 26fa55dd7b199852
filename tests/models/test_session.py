"""Records whose media cannot be read are set aside with the reason, once, and not in silence."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from models.processor import Processor
from models.session import RunConfig, quarantine
from runtime.errors import ConfigError, MediaError
from runtime.files import read_jsonl
from tasks.base import Dataset
from tasks.record import Media

RUN = RunConfig("run", "", 0, max_quarantined=0.3, report_to=[], project="undertone", tags=[])


@pytest.fixture
def broken(studio_data: Dataset, tmp_path: Path) -> Dataset:
    """Four records; the video of the second is torn, that of the third is missing."""
    records = studio_data.records[:4]
    for i, record in enumerate(records):
        for name in ("audio", "video"):
            view = record.views[name]
            assert isinstance(view, Media)
            path = tmp_path / view.path
            path.parent.mkdir(exist_ok=True)
            shutil.copy(studio_data.root / view.path, path)
            if name == "video" and i == 1:
                path.write_bytes(path.read_bytes()[:500])
            if name == "video" and i == 2:
                path.unlink()
    return Dataset(records, tmp_path)


def fresh(processor: Processor) -> Processor:
    return Processor(processor.processor, processor.settings)


def test_records_with_unreadable_media_are_set_aside_with_the_reason(tiny, studio, broken, tmp_path, capsys) -> None:
    run = replace(RUN, max_quarantined=0.5)
    kept = quarantine(studio, broken, lambda: fresh(tiny[2]), tmp_path / "run", run)
    assert kept.records == (broken.records[0], broken.records[3]) and kept.root == broken.root
    rows = read_jsonl(tmp_path / "run" / "quarantine.jsonl")
    assert [row["uid"] for row in rows] == [broken.records[1].uid, broken.records[2].uid]
    assert "not a readable media file" in rows[0]["reason"] and "there is no such media file" in rows[1]["reason"]
    said = f"set aside 2 of 4 records with unreadable media; reasons in {tmp_path / 'run' / 'quarantine.jsonl'}"
    assert said in capsys.readouterr().out


def test_a_second_call_believes_the_first(tiny, studio, broken, tmp_path) -> None:
    run = replace(RUN, max_quarantined=0.5)
    first = quarantine(studio, broken, lambda: fresh(tiny[2]), tmp_path / "run", run)

    def never() -> Processor:
        raise AssertionError("scanned again")

    assert quarantine(studio, broken, never, tmp_path / "run", run) == first


def test_too_many_unreadable_records_stop_the_run_and_name_the_first(tiny, studio, broken, tmp_path) -> None:
    said = (
        r"2 of 4 records \(50%\) have unreadable media, allowed is run\.max_quarantined=30%; the first: "
        rf"{broken.records[1].uid}: .*not a readable media file"
    )
    with pytest.raises(MediaError, match=said):
        quarantine(studio, broken, lambda: fresh(tiny[2]), tmp_path / "run", RUN)
    assert not (tmp_path / "run" / "quarantine.jsonl").exists()


def test_a_tracker_that_nothing_serves_is_refused():
    with pytest.raises(ConfigError, match=r"run.report_to: \[\] or \[wandb\]; got \['trackio'\]; mend the config"):
        replace(RUN, report_to=["trackio"])
