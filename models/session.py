"""What every verb needs first: run folder, seed, task, records with unreadable media set aside, model settings."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from models.load import ModelConfig, base_checkpoint, load_processor
from models.processor import Processor
from runtime.cluster import first_rank
from runtime.config import check_sections, make, section
from runtime.errors import ConfigError, MediaError
from runtime.files import read_jsonl, write_json, write_jsonl
from runtime.manifest import note_lineage, write_manifest
from runtime.secrets import redact
from runtime.seeds import seed_everything, set_threads
from runtime.trackers.base import About
from runtime.trackers.tracker import TRACKERS, Tracker, open_tracker
from tasks.base import Dataset, Message, Task
from tasks.record import Record

SECTIONS = (
    "run",
    "seed",
    "task",
    "model",
    "engine",
    "teacher",
    "synth",
    "sft",
    "hint",
    "reward",
    "explanation",
    "judge",
    "rl",
    "eval",
    "strategies",
    "robustness",
    "baseline",
    "cluster",
)


@dataclass
class RunConfig:
    """The section `run` of `conf/pipeline.yaml`."""

    name: str
    dir: str
    threads: int
    max_quarantined: float
    report_to: list[str]
    project: str
    tags: list[str]
    table_every: int
    table_rows: int

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.report_to) - set(TRACKERS)):
            raise ConfigError(f"run.report_to: some of {list(TRACKERS)}; got {unknown}; mend the config")
        if self.table_every < 1 or self.table_rows < 0:
            got = f"table_every={self.table_every} table_rows={self.table_rows}"
            raise ConfigError(f"run: table_every 1 or more, table_rows 0 or more; got {got}; mend the config")


@dataclass(frozen=True, slots=True)
class Session:
    """One run of any verb."""

    cfg: DictConfig
    """The composed config; sections are read through `section`."""
    run: RunConfig
    folder: Path
    seed: int
    task: Task
    data: Dataset
    model: ModelConfig

    @property
    def records(self) -> Path:
        """The record file of this run."""
        return self.folder / "data" / "records.jsonl"

    def section(self, name: str, schema: type) -> Any:
        """A typed section of the config; see `runtime.config.section`."""
        return section(self.cfg, name, schema)

    @contextmanager
    def tracker(self, stage: str, inputs: Mapping[str, Path]) -> Iterator[Tracker]:
        """What a stage tells `run.report_to` while it works; what it has read and written is in the manifest afterwards.

        Args:
            stage: its folder in that of the run.
            inputs: files or checkpoint folders it reads.
        """
        config: Any = redact(OmegaConf.to_container(self.cfg, resolve=True))
        first = first_rank()  # who has written the manifest
        if first:
            attempt = json.loads((self.folder / "manifest.json").read_text())["attempts"][-1]
            config |= {
                "manifest": {k: attempt[k] for k in ("config", "parent", "git", "python", "packages", "machine")}
            }
        about = About(self.run.project, self.run.name, stage, self.run.tags, config, self.folder / stage)
        with open_tracker(self.run.report_to, self.folder, about) as tracker:
            for path in inputs.values():
                tracker.used(path)
            yield tracker
        if first:
            note_lineage(self.folder, stage, tracker.inputs, tracker.outputs)

    def settings(self, **sections: Any) -> dict[str, Any]:
        """What decides the result of a stage: seed, task, model, and the given sections."""
        model = asdict(self.model)
        model.pop("media_cache_gb")  # decides how long it takes
        task = OmegaConf.to_container(self.cfg.task, resolve=True)
        assert isinstance(task, dict)
        task.pop("data", None)  # a place; what lies there is in the hash of the records
        return {"seed": self.seed, "task": task, "model": model} | {
            name: asdict(value) for name, value in sections.items()
        }


def open_session(cfg: DictConfig, parent: str | None = None, stream: bool = False) -> Session:
    """Check the config, make the run folder, and read (or make) the records.

    Args:
        cfg: as Hydra composed it.
        parent: the run whose checkpoint this one starts from, for the manifest.
        stream: whether to leave the records on disk; see `Task.dataset`.

    Raises:
        UndertoneError: for a bad setting, record file or too many unreadable media.
    """
    check_sections(cfg, SECTIONS)
    if not isinstance(cfg.seed, int) or not 0 <= cfg.seed < 2**32:
        raise ConfigError(f"seed: a whole number in [0, 2**32); got {cfg.seed!r}; mend the config")
    run: RunConfig = section(cfg, "run", RunConfig)
    model: ModelConfig = section(cfg, "model", ModelConfig)
    task: Task = make(cfg, "task")
    set_threads(run.threads)
    seed_everything(cfg.seed)
    folder = Path(run.dir)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "data.lock"):  # the first rank makes the data, the others find them made
        data = task.dataset(folder / "data", stream)
        write_json(folder / "data" / "dataset.json", {"root": str(data.root.resolve())})
        data = quarantine(task, data, lambda: load_processor(model, base_checkpoint(model)), folder / "data", run)
    resolved = redact(OmegaConf.to_container(cfg, resolve=True))
    if first_rank():
        OmegaConf.save(OmegaConf.create(resolved), folder / "config.yaml")
        write_manifest(
            folder,
            resolved,
            seed=cfg.seed,
            parent=parent,
            inputs={"records": folder / "data" / "records.jsonl"},
        )
    return Session(cfg, run, folder, cfg.seed, task, data, model)


def quarantine(
    task: Task, data: Dataset, make_processor: Callable[[], Processor], folder: Path, run: RunConfig
) -> Dataset:
    """Set aside records whose prompt cannot be encoded: media missing, corrupt, too long or too short.

    The reasons are kept in `folder/quarantine.jsonl`; while it is there, nothing is scanned again.

    Raises:
        MediaError: when more than the share `run.max_quarantined` would have to go.
    """
    path = folder / "quarantine.jsonl"
    if not path.is_file():
        processor = make_processor()
        processor.memory = 0  # everything is looked at once here; what it decodes stays on disk
        reasons: dict[str, str] = {}

        def prompts() -> Iterator[tuple[Record, Sequence[Message]]]:
            for record in data.records:
                with _noting(reasons, record.uid):
                    yield record, task.prompt(record, data.root)

        processor.prefetch(messages for _, messages in prompts())
        for record, messages in tqdm(prompts(), desc="media", total=len(data.records), leave=False, disable=None):
            with _noting(reasons, record.uid):
                processor.encode(messages)
        rows = [
            {"uid": record.uid, "split": record.split, "reason": reasons[record.uid]}
            for record in data.records
            if record.uid in reasons
        ]
        share = len(rows) / len(data.records)
        if share > run.max_quarantined:
            raise MediaError(
                f"{len(rows)} of {len(data.records)} records ({share:.0%}) have unreadable media, allowed is "
                f"run.max_quarantined={run.max_quarantined:.0%}; the first: {rows[0]['uid']}: {rows[0]['reason']}"
            )
        write_jsonl(path, rows)
        if rows:
            print(f"set aside {len(rows)} of {len(data.records)} records with unreadable media; reasons in {path}")
        if lost := processor.uncached(messages for record, messages in prompts() if record.uid not in reasons):
            print(f"{lost} clips do not fit on disk and are decoded whenever they are met; raise model.media_cache_gb")
    out = {row["uid"] for row in read_jsonl(path)}
    return data.without(out) if out else data


@contextmanager
def _noting(reasons: dict[str, str], uid: str) -> Iterator[None]:
    try:
        yield
    except MediaError as error:
        reasons[uid] = str(error)
