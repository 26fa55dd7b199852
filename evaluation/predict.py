"""What a checkpoint says about a clip: its answer, its explanation, and how sure it is.

    python -m evaluation.predict checkpoint=outputs/NAME clip=FILE
    python -m evaluation.predict checkpoint=outputs/NAME clip=FOLDER out=said.jsonl
    python -m evaluation.predict checkpoint=outputs/NAME/sft/final video=face.mp4 audio=voice.wav text='what a lovely day'

`checkpoint` is a run folder (of which the newest is taken: rl, else sft) or a checkpoint inside of one. The model is shown what its
task shows: `clip` fills the views that it can, so a film stands for pictures and sound alike; in a folder, files of one name are
one clip, and NAME.txt is the transcript of NAME.mp4. A single view goes by its own name: `text=WORDS`, `audio=FILE`, `video=FILE`.
Views that are not given are left out of the prompt, and the panel says so. Further settings:

    out=FILE.jsonl       JSON lines instead of panels; - for standard output
    samples=16           further answers that are drawn, for the votes
    temperature=0.8      of these
    max_new_tokens=N     of an answer; else as many as in the run's evaluation
    seed=0               of the draws, begun anew at each clip

The answer is the likeliest one, word by word. Its confidence is given twice: the share of the samples that say the same (the same
side for intensities, the same words for everything else), and the mean log-probability of the tokens inside of its answer block.
Neither is calibrated. A clip of a folder that cannot be read becomes a line that says why; the exit code is then 1.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from evaluation.answers import answer_logprob, gist
from evaluation.panel import panel
from evaluation.run import EvalConfig
from models.engine.base import Sampling
from models.engine.hf import HFEngine
from models.load import ModelConfig, load_model, load_processor
from models.media import has_sound
from models.processor import Processor
from runtime.config import check_sections, make, section
from runtime.errors import ConfigError, MediaError, StageError, UndertoneError
from runtime.files import write_jsonl
from runtime.main import quiet
from runtime.seeds import seed_everything
from tasks.base import Task
from tasks.dc import Answer
from tasks.record import Media, Record, View, read_records
from tasks.target import Scalar, Target

FILM = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
SOUND = (".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus", ".aac")
PICTURE = (".png", ".jpg", ".jpeg")
TEXT = ".txt"
DEFAULTS = {"samples": "16", "temperature": "0.8", "seed": "0"}
USAGE = "checkpoint=RUN clip=FILE|FOLDER [text=WORDS] [audio=FILE] [video=FILE] [out=FILE.jsonl|-]"


@dataclass(frozen=True, slots=True)
class Reader:
    """A checkpoint, ready to be asked."""

    task: Task
    like: Record
    """A record of its run, whose target says what an answer can be; its label is not looked at."""
    kinds: Mapping[str, str]
    """What each view of the task is: "text", "audio", "image" or "video"."""
    engine: HFEngine
    processor: Processor
    max_new_tokens: int


def open_reader(checkpoint: Path) -> Reader:
    """Load a checkpoint of ours with the task and the settings of its run.

    Args:
        checkpoint: a run folder, or a folder with a model inside of one.

    Raises:
        StageError: when there is no checkpoint, or no run around it.
    """
    run, final = find_checkpoint(checkpoint)
    cfg = OmegaConf.load(run / "config.yaml")
    assert isinstance(cfg, DictConfig)
    task: Task = make(cfg, "task")
    model_cfg, settings = section(cfg, "model", ModelConfig), section(cfg, "eval", EvalConfig)
    records = read_records(run / "data" / "records.jsonl")
    kinds = {name: next((_kind(r.views[name]) for r in records if name in r.views), "text") for name in task.views}
    processor, model = load_processor(model_cfg, final), load_model(model_cfg, final, train=False).eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return Reader(task, records[0], kinds, HFEngine(model, processor), processor, settings.max_new_tokens)


def find_checkpoint(checkpoint: Path) -> tuple[Path, Path]:
    """The run, and the checkpoint in it."""
    if (checkpoint / "config.yaml").is_file():
        found = next((checkpoint / s / "final" for s in ("rl", "sft") if (checkpoint / s / "final").is_dir()), None)
        if found is None:
            raise StageError(
                f"{checkpoint}: this run has neither rl/final nor sft/final; train it first, or name another"
            )
        return checkpoint, found
    if not any((checkpoint / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise StageError(
            f"{checkpoint}: neither a run folder (config.yaml) nor a checkpoint (config.json); mend the path"
        )
    run = next((parent for parent in checkpoint.absolute().parents if (parent / "config.yaml").is_file()), None)
    if run is None:
        raise StageError(
            f"{checkpoint}: no run folder with a config.yaml around it says what its task is; name the run"
        )
    return run, checkpoint


def _kind(view: View) -> str:
    return view.kind if isinstance(view, Media) else "text"


# ---- what is asked about


@dataclass(frozen=True, slots=True)
class Clip:
    """One thing to be asked about."""

    name: str
    views: Mapping[str, View]
    """Media paths are absolute without their leading slash, so that they lie below the root of the file system."""


def clips_of(reader: Reader, clip: Path | None, given: Mapping[str, str]) -> list[Clip]:
    """What the command names.

    Args:
        reader: whose views are filled.
        clip: a file, a folder, or None.
        given: view -> text, or path of a file.

    Raises:
        ConfigError: for a view that the task does not show, or nothing to ask about.
        MediaError: for a path that leads nowhere.
    """
    if unknown := sorted(set(given) - set(reader.kinds)):
        raise ConfigError(f"{', '.join(unknown)}: this model is shown {', '.join(reader.kinds)}; leave it out")
    own = {name: _view(reader.kinds[name], value) for name, value in given.items()}
    if clip is None:
        if not own:
            raise ConfigError(f"clip: nothing to ask about; write {USAGE}")
        return [Clip("clip" if not given else next(iter(given.values())), own)]
    if not clip.exists():
        raise MediaError(f"{clip}: there is no such file or folder; mend the path")
    if clip.is_file():
        words = clip.with_suffix(TEXT)
        return [_filled(reader, clip.name, [clip, *([words] if words.is_file() else [])], own)]
    by_name: dict[str, list[Path]] = {}
    for path in sorted(clip.iterdir()):
        if path.suffix.lower() in (*FILM, *SOUND, *PICTURE, TEXT):
            by_name.setdefault(path.stem, []).append(path)
    if not by_name:
        raise MediaError(
            f"{clip}: holds no file that ends in {' '.join((*FILM, *SOUND, *PICTURE, TEXT))}; name another"
        )
    return [_filled(reader, name, paths, own) for name, paths in by_name.items()]


def _view(kind: str, value: str) -> View:
    if kind == "text":
        return value
    path = Path(value).absolute()
    if not path.is_file():
        raise MediaError(f"{value}: there is no such {kind} file; mend the path")
    return Media(kind, str(path.relative_to(path.anchor)))  # type: ignore[arg-type]


def _filled(reader: Reader, name: str, paths: Sequence[Path], own: Mapping[str, View]) -> Clip:
    """The views that these files can fill; a film has sound, unless it lies beside a file of its own."""
    of = {kind: [p for p in paths if p.suffix.lower() in some] for kind, some in
          (("video", FILM), ("audio", SOUND), ("image", PICTURE))}  # fmt: skip
    words = next((p for p in paths if p.suffix.lower() == TEXT), None)
    views: dict[str, View] = {}
    for view, kind in reader.kinds.items():
        if kind == "text":
            if words is not None:
                views[view] = words.read_text(encoding="utf-8").strip()
        elif of[kind]:
            views[view] = _view(kind, str(of[kind][0]))
        elif kind == "audio" and of["video"]:
            views[view] = _view("audio", str(of["video"][0]))
    return Clip(name, {view: views[view] for view in reader.kinds if view in views} | dict(own))


# ---- what is said


@dataclass(frozen=True, slots=True)
class Said:
    """What a checkpoint says about one clip."""

    clip: Clip
    target: Target
    """Says what an answer can be."""
    completion: str
    answer: Answer | None
    fault: str | None
    """Why the completion is no answer."""
    logprob: float | None
    """Mean over the tokens inside of the answer block; None without one."""
    votes: Mapping[str, int]
    """What the samples say -> how many of them; "no answer" for those that cannot be read."""
    samples: int
    temperature: float
    absent: tuple[str, ...]
    """Views of the task that were not given."""

    @property
    def share(self) -> float | None:
        """Share of the samples that say the same as the answer; None without an answer, or without samples."""
        if self.answer is None or not self.samples:
            return None
        return self.votes.get(gist(self.answer.value), 0) / self.samples

    def to_json(self) -> dict[str, Any]:
        """One line of `out`."""
        return {
            "clip": self.clip.name,
            "views": {n: f"/{v.path}" if isinstance(v, Media) else v for n, v in self.clip.views.items()},
            "answer": None if self.answer is None else self.answer.value.render(),
            "verdict": None if self.answer is None else self.answer.verdict,
            "explanation": {} if self.answer is None else dict(self.answer.bodies),
            "fault": self.fault,
            "confidence": {
                "share": self.share,
                "votes": dict(self.votes),
                "samples": self.samples,
                "temperature": self.temperature,
                "answer_logprob": self.logprob,
            },
            "completion": self.completion,
        }

    def panel(self) -> str:
        """The same for people."""
        value = None if self.answer is None else self.answer.value
        verdict = None if self.answer is None else self.answer.verdict
        facts = [] if self.answer is None else list(self.answer.bodies.items())
        if value is None:
            facts += [("fault", str(self.fault)), ("said", self.completion)]
        if self.share is not None:
            sure = f"{self.share:.0%} of {self.samples} samples at temperature {self.temperature:g} say {gist(value)}"  # type: ignore[arg-type]
            facts.append(("sure", sure))
        if self.logprob is not None:
            facts.append(("", f"mean log p of the answer's tokens {self.logprob:.2f}"))
        facts.append(("shown", ", ".join(self.clip.views) + "".join(f"; no {name}" for name in self.absent)))
        scale = (value.x, value.lo, value.hi) if isinstance(value, Scalar) else None
        headline = NO_ANSWER if value is None else f"{verdict}  {value.render()}" if verdict else value.render()
        return panel(self.clip.name, headline, verdict, scale, facts, self.votes)


NO_ANSWER = "no answer"


def ask(reader: Reader, clip: Clip, samples: int, temperature: float, seed: int, max_new_tokens: int) -> Said:
    """Ask about one clip: once for the likeliest answer, and for `samples` others, behind one prompt.

    Raises:
        MediaError: for media that cannot be read or are too long, or a clip that fills no view.
    """
    if not clip.views:
        raise MediaError(
            f"{clip.name}: holds nothing that this model is shown ({', '.join(reader.kinds)}); give it another file"
        )
    for name, view in clip.views.items():
        if isinstance(view, Media) and view.kind == "audio" and not has_sound(Path("/", view.path)):
            raise MediaError(f"/{view.path}: holds no sound for the view {name}; give {name}=FILE")
    record = Record(
        uid=clip.name, task=reader.task.name, split="test", group=clip.name, views=clip.views, target=reader.like.target
    )
    seed_everything(seed)
    state = reader.engine.prefill([reader.processor.encode(reader.task.prompt(record, Path("/")))])
    (likeliest,) = reader.engine.sample(state, [0], Sampling(max_new_tokens, 0.0))
    drawn = reader.engine.sample(state, [0] * samples, Sampling(max_new_tokens, temperature)) if samples else []
    completion = reader.processor.decode(likeliest.token_ids)
    parsed = reader.task.parse(record, completion)
    answer = parsed if isinstance(parsed, Answer) else None
    others = [reader.task.parse(record, reader.processor.decode(one.token_ids)) for one in drawn]
    votes = Counter(gist(other.value) if isinstance(other, Answer) else NO_ANSWER for other in others)
    return Said(
        clip,
        record.target,
        completion,
        answer,
        None if answer is not None else str(parsed),
        None if answer is None else answer_logprob(reader.processor, likeliest),
        dict(votes.most_common()),
        samples,
        temperature,
        tuple(name for name in reader.kinds if name not in clip.views),
    )


# ---- the command


def _settings(argv: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Our own settings, and what is given of single views."""
    if bad := [a for a in argv if "=" not in a]:
        raise ConfigError(f"{' '.join(bad)}: settings are key=value; write {USAGE}")
    given = {key: value for key, _, value in (a.partition("=") for a in argv)}
    known = ("checkpoint", "clip", "out", "max_new_tokens", *DEFAULTS)
    views = {key: value for key, value in given.items() if key not in known}
    check_sections(OmegaConf.create(views), ["text", "audio", "video", "image", *known])
    if "checkpoint" not in given:
        raise ConfigError(f"checkpoint: required and not given; write {USAGE}")
    settings = DEFAULTS | {key: value for key, value in given.items() if key in known}
    for key, least in (("samples", 0), ("seed", 0), ("max_new_tokens", 1)):
        if key in settings and (not settings[key].isdecimal() or int(settings[key]) < least):
            raise ConfigError(f"{key}: a whole number from {least} on; got {settings[key]!r}; mend the command")
    try:
        fine = 0 < float(settings["temperature"]) < 100
    except ValueError:
        fine = False
    if not fine:
        raise ConfigError(f"temperature: a number above 0; got {settings['temperature']!r}; mend the command")
    return settings, views


def _ask_all(
    reader: Reader, clips: Sequence[Clip], settings: Mapping[str, str]
) -> Iterator[tuple[Clip, Said | MediaError]]:
    for clip in clips:
        try:
            yield (
                clip,
                ask(
                    reader,
                    clip,
                    int(settings["samples"]),
                    float(settings["temperature"]),
                    int(settings["seed"]),
                    int(settings.get("max_new_tokens", reader.max_new_tokens)),
                ),
            )
        except MediaError as error:
            if len(clips) == 1:
                raise
            yield clip, error


def main(argv: Sequence[str]) -> int:
    """Ask about every clip, and print panels or write JSON lines.

    Returns:
        0, or 1 when a clip of a folder could not be read.

    Raises:
        UndertoneError: for a bad setting, checkpoint or clip.
    """
    settings, given = _settings(argv)
    reader = open_reader(Path(settings["checkpoint"]))
    clips = clips_of(reader, Path(settings["clip"]) if "clip" in settings else None, given)
    out, rows, failed = settings.get("out"), [], 0
    for clip, said in _ask_all(reader, clips, settings):
        failed += isinstance(said, MediaError)
        row = {"clip": clip.name, "error": str(said)} if isinstance(said, MediaError) else said.to_json()
        rows.append(row)
        if out == "-":
            print(json.dumps(row, ensure_ascii=False, allow_nan=False), flush=True)
        elif out is None:
            print(f"{clip.name}: {said}\n" if isinstance(said, MediaError) else said.panel(), flush=True)
    if out not in (None, "-"):
        write_jsonl(Path(out), rows)
        print(f"{out}: {len(rows)} clips, {failed} of them could not be read")
    return int(failed > 0)


if __name__ == "__main__":
    quiet()
    try:
        code = main(sys.argv[1:])
    except UndertoneError as error:
        sys.exit(f"error: {error}")
    sys.exit(code)
