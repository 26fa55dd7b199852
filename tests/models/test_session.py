"""Records whose media cannot be read are set aside with the reason, once, and not in silence."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock, Timeout
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from models.load import base_checkpoint, load_processor
from models.media_cache import MediaCache
from models.processor import Processor
from models.session import RunConfig, Session, open_session, quarantine
from runtime.errors import ConfigError, MediaError
from runtime.files import read_jsonl
from runtime.main import CONF
from tasks.base import Dataset
from tasks.record import Media
from tasks.studio.task import Studio

RUN = RunConfig(
    "run", "", 0, max_quarantined=0.3, report_to=[], project="undertone", tags=[], table_every=10, table_rows=16
)


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


def test_the_scan_leaves_every_clip_on_disk_for_whoever_comes_next(
    tiny, studio, studio_data, tmp_path, capsys, monkeypatch
) -> None:
    asked, prefetch = [], Processor.prefetch
    monkeypatch.setattr(Processor, "prefetch", lambda self, p: prefetch(self, (p := list(p))) or asked.extend(p))
    cache = MediaCache(tmp_path / "media", 10_000_000)
    first, later = (Processor(tiny[2].processor, tiny[2].settings, cache) for _ in range(2))
    assert quarantine(studio, studio_data, lambda: first, tmp_path / "run", RUN) == studio_data
    prompts = [studio.prompt(record, studio_data.root) for record in studio_data.records]
    assert first.encodings == len(prompts) == 28 and later.uncached(prompts) == 0
    assert asked == prompts  # by several threads
    assert first._held == 0  # nothing stays in memory
    assert "do not fit" not in capsys.readouterr().out


def test_clips_that_do_not_fit_on_disk_are_told_of(tiny, studio, studio_data, tmp_path, capsys) -> None:
    processor = Processor(tiny[2].processor, tiny[2].settings, MediaCache(tmp_path / "media", 500_000))
    quarantine(studio, studio_data, lambda: processor, tmp_path / "run", RUN)
    lost = processor.uncached(studio.prompt(record, studio_data.root) for record in studio_data.records)
    assert 0 < lost < 28
    said = f"{lost} clips do not fit on disk and are decoded whenever they are met; raise model.media_cache_gb\n"
    assert said in capsys.readouterr().out


def test_the_size_of_the_cache_is_a_setting_that_decides_no_result(tiny, studio, studio_data, cache, tmp_path) -> None:
    cfg = tiny[0]
    for gb, limit in ((0.5, 500_000_000), (0, None)):
        model = replace(cfg, media_cache_gb=gb)
        kept = load_processor(model, base_checkpoint(model))._reader.cache
        assert kept is None if limit is None else (kept.folder, kept.limit) == (cache / "media", limit)
        tree = OmegaConf.create({"task": {"name": "studio"}})
        session = Session(tree, RUN, tmp_path, 0, studio, studio_data, model)
        assert "media_cache_gb" not in session.settings()["model"]
    with pytest.raises(
        ConfigError, match=r"model\.media_cache_gb: 0 \(nothing is kept\) or more; got -1; mend the config"
    ):
        replace(cfg, media_cache_gb=-1)


def test_a_tracker_that_nothing_serves_is_refused():
    said = r"run.report_to: some of \['wandb', 'trackio'\]; got \['mlflow'\]; mend the config"
    with pytest.raises(ConfigError, match=said):
        replace(RUN, report_to=["trackio", "mlflow"])
    for change in ({"table_every": 0}, {"table_rows": -1}):
        with pytest.raises(ConfigError, match="run: table_every 1 or more, table_rows 0 or more; got"):
            replace(RUN, **change)


def test_data_are_made_by_one_process_while_others_wait(tmp_path, monkeypatch) -> None:
    class Made(Exception):
        pass

    def dataset(self: Studio, folder: Path, stream: bool = False) -> Dataset:
        with pytest.raises(Timeout):
            FileLock(folder.parent / "data.lock", timeout=0).acquire()
        raise Made

    monkeypatch.setattr(Studio, "dataset", dataset)
    with initialize_config_dir(CONF, version_base=None):
        cfg = compose("pipeline", overrides=[f"run.dir={tmp_path}/run"])
    with pytest.raises(Made):
        open_session(cfg)
    FileLock(tmp_path / "run" / "data.lock", timeout=0).acquire()  # it is free again
