"""All checks of one data set, one after the other."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers import Qwen2_5OmniProcessor

from evaluation.doctor.findings import Finding
from evaluation.doctor.forecast import Load, forecast, shape_of
from evaluation.doctor.labels import bad_labels
from evaluation.doctor.leaks import duplicates
from evaluation.doctor.media import Look, look
from evaluation.doctor.pool import look_at_all
from evaluation.doctor.reading import read
from evaluation.doctor.texts import bad_texts
from evaluation.doctor.tokens import Counter, Prompt, Sampling, frames_of, sampling_of
from models.load import ModelConfig, base_checkpoint, load_processor
from models.media import RATE
from runtime.errors import ConfigError, MediaError
from tasks.base import Task
from tasks.record import Media, Record

OF_THE_FILE = ("record", "uid", "group")
"""Kinds for which a run refuses the whole file: to set a record aside does not help."""
SPARSE = 0.5
"""Share of the wanted frame rate below which frames count as sparse."""
SHRUNK = 0.75
"""Share of a frame's pixels below which it counts as shrunk."""


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found."""

    records: tuple[Record, ...]
    findings: tuple[Finding, ...]
    forecast: dict[str, Any] | None
    """As `evaluation.doctor.forecast.forecast` gives it; None without a model, or without a record whose media can be read."""
    clips: int
    """Media views that were read."""
    seconds: float
    """That reading them took."""
    cpu_seconds: float
    """The same of all processes together."""

    def quarantine(self) -> list[dict[str, str]]:
        """{uid, split, reason} of every record with an error of its own, in the order and form of `models.session.quarantine`."""
        reasons: dict[str, list[str]] = {}
        for finding in self.findings:
            if finding.severity == "error" and finding.kind not in OF_THE_FILE and finding.uid is not None:
                reasons.setdefault(finding.uid, []).append(f"{finding.kind}: {finding.reason}")
        return [
            {"uid": record.uid, "split": record.split, "reason": "; ".join(reasons[record.uid])}
            for record in self.records
            if record.uid in reasons
        ]


def examine(
    path: Path, root: Path, task: Task | None, model: ModelConfig | None, load: Load | None, workers: int
) -> Examination:
    """Scan a record file and the media that it points at.

    Args:
        path: of the records.
        root: below which media pointers lead.
        task: says which views count, and what is asked; None looks at all views.
        model: whose limits count; needs a task. None checks none.
        load: what has to fit; goes with the model. Its context is cut to what the model's position code is made for.
        workers: processes.

    Raises:
        RecordError: for a file without a record.
        ConfigError: for a model that cannot be read, or takes no media and is shown some.
    """
    records, findings = read(path)
    views = None if task is None else task.views
    start = time.monotonic()
    with_media = [
        r for r in records if any(isinstance(v, Media) for n, v in r.views.items() if views is None or n in views)
    ]
    seen = look_at_all(with_media, partial(look, root=root, views=views), workers)
    looks = {record.uid: seen.get(record.uid, Look(record.uid, {}, (), 0.0)) for record in records}
    seconds = time.monotonic() - start
    findings += [finding for one in looks.values() for finding in one.findings]
    findings += _without_track(looks)
    findings += bad_texts(records, views)
    findings += bad_labels(records)
    findings += duplicates(records, looks, views)
    ahead = None
    if task is not None:
        findings += _without_view(records, task)
    if task is not None and model is not None and load is not None:
        ahead, found = _ahead(records, looks, root, task, model, load)
        findings += found
    order = {record.uid: i for i, record in enumerate(records)}
    findings.sort(key=lambda f: (f.severity, order.get(f.uid or "", -1)))
    clips = sum(len(one.clips) for one in looks.values())
    return Examination(
        tuple(records), tuple(findings), ahead, clips, seconds, sum(one.seconds for one in looks.values())
    )


def _without_track(looks: dict[str, Look]) -> Iterator[Finding]:
    """Videos without sound in a corpus whose videos mostly have it: there, a video promises sound."""
    films = [
        (uid, name, clip)
        for uid, one in looks.items()
        for name, clip in one.clips.items()
        if clip.media.kind == "video"
    ]
    mute = [(uid, name, clip) for uid, name, clip in films if clip.sound is None]
    if 2 * len(mute) >= len(films):
        return
    for uid, name, clip in mute:
        most = f"holds no audio track, and {len(films) - len(mute)} of {len(films)} videos have one"
        yield Finding("no_track", uid, f"{clip.media.path}: {most}; replace the file, or remove the record", name)


def _without_view(records: Sequence[Record], task: Task) -> Iterator[Finding]:
    for record in records:
        if not any(name in record.views for name in task.views):
            has, shows = ", ".join(record.views), ", ".join(task.views)
            reason = (
                f"it has the views {has}, the prompt shows {shows}; name others in task.views, or remove the record"
            )
            yield Finding("no_view", record.uid, reason)


def _ahead(
    records: Sequence[Record], looks: dict[str, Look], root: Path, task: Task, model: ModelConfig, load: Load
) -> tuple[dict[str, Any] | None, list[Finding]]:
    """The forecast, and what is over the limits of the model."""
    media = {v.kind for r in records for name in task.views if isinstance(v := r.views.get(name), Media)}
    if model.family == "text" and media:
        raise ConfigError(
            f"model {model.name}: it reads text alone, and the prompt shows {', '.join(sorted(media))}; set task.views to text "
            "views, or name an omni model"
        )
    try:
        counter, shape = Counter(load_processor(model, base_checkpoint(model))), shape_of(model)
    except OSError as error:
        raise ConfigError(
            f"model {model.name}: {str(error).splitlines()[0]} Fetch {model.source} first, or name a folder with "
            "model.source=FOLDER"
        ) from None
    load = Load(load.group, load.answer, min(load.context, shape.positions), load.memory)
    prompts, findings = _prompts(records, looks, root, task, counter)
    sampling = sampling_of(model)
    findings += [f for prompt in prompts for f in _over_limits(prompt, counter, sampling, load)]
    if not prompts:
        return None, findings
    return {"model": model.name, **forecast(counter, prompts, shape, sampling, load)}, findings


def _prompts(
    records: Sequence[Record], looks: dict[str, Look], root: Path, task: Task, counter: Counter
) -> tuple[list[Prompt], list[Finding]]:
    """The prompt of every record whose media could be read."""
    prompts, findings = [], []
    for record in records:
        shown = [name for name in task.views if isinstance(record.views.get(name), Media)]
        clips = looks[record.uid].clips
        if not all(name in clips for name in shown):
            continue
        try:
            prompts.append(counter.prompt(record.uid, task.prompt(record, root), [clips[name] for name in shown]))
        except MediaError as error:
            findings.append(Finding("media_token", record.uid, str(error)))
    return prompts, findings


def _over_limits(prompt: Prompt, counter: Counter, sampling: Sampling, load: Load) -> Iterator[Finding]:
    real = counter.processor.processor
    for clip in prompt.clips:
        assert isinstance(real, Qwen2_5OmniProcessor)
        heard = clip.sound is not None and (clip.media.kind == "audio" or counter.in_video)
        window = real.feature_extractor.n_samples
        if heard and clip.sound is not None and clip.sound.samples > window:
            long = f"{clip.sound.samples / RATE:.1f} s of sound, the model hears at most {window / RATE:.0f} s"
            yield Finding("too_long", prompt.uid, f"{clip.media.path}: {long}; cut the clip, or give the record a span")
        if clip.picture is None:
            continue
        height, width = counter.frame_size(clip.picture, sampling)
        if height * width < SHRUNK * clip.picture.height * clip.picture.width:
            size = f"{clip.picture.width} x {clip.picture.height} pixels, seen at {width} x {height}"
            more = "raise model.video_size.longest_edge if details count"
            yield Finding("shrunk", prompt.uid, f"{clip.media.path}: {size}; {more}")
        if clip.picture.fps:
            wanted, rate = min(sampling.fps, clip.picture.fps), frames_of(clip.picture, sampling)[1]
            if rate < SPARSE * wanted:
                slow = f"{clip.picture.seconds:.1f} s, so {sampling.max_frames} frames are {rate:.2g} a second, not {wanted:g}"
                yield Finding(
                    "sparse", prompt.uid, f"{clip.media.path}: {slow}; raise model.max_frames, or cut the clip"
                )
    length = counter.tokens(prompt, sampling)
    if length + load.answer > load.context:
        most = f"a prompt of {length} tokens and an answer of {load.answer}, {load.context} fit"
        yield Finding("too_long", prompt.uid, f"{most}; take the suggested frame rate and size, or cut the clip")
