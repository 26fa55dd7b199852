"""Cold starts, arms and evaluations of a study, in folders that say what they are; what is done is not done again."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from evidence.plan import READER, Arm, Overrides, Study
from evidence.readers import train_readers
from evidence.verbs import verb
from runtime.run import finished
from tasks.record import read_records, write_records

EVALUATION = {"rl": "rl", "sft": "sft", "evaluation.baselines regression": "regression"}
"""Verb -> name of its evaluation in the run folder."""
METRICS = "polarity,corr,mae"
RATES = "fcr,epc,inconsistent,evidence_precision"
"""Of explanations, in the studies of them."""
LABELS: Overrides = ("task.grammar=answer",)


@dataclass(frozen=True, slots=True)
class Runs:
    """The runs of a study below a folder."""

    study: Study
    out: Path

    def folder(self, arm: str, seed: int | str) -> Path:
        """Where an arm's run of a seed is; `*` for all of them."""
        return self.out / arm.replace(" ", "_") / f"seed{seed}"

    def run(self, name: str, folder: Path, overrides: Overrides) -> None:
        """Run a verb in a run folder."""
        if name == "evaluation" and self.study.explained:
            overrides = (*(o for o in overrides if not o.startswith("explanation")), *READER)
        given = [o.format(out=self.out) for o in (*self.study.every, *overrides)]
        verb(name, folder / f"{name.replace(' ', '_')}.log", (f"hydra.run.dir={folder}", *given))

    def prepare(self) -> None:
        """Render the clips, build the base model, have chains written and chosen, train what reads explanations."""
        if self.study.explained:
            train_readers(self.out, self.study.every, ["task=studio"])
        if self.chains.is_file():
            return
        synth = self.out / "synth"
        self.run("data_synth", synth, ())
        base = verb("sft.perception", self.out / "perception.log", ())
        (self.out / "base").unlink(missing_ok=True)
        (self.out / "base").symlink_to(base)
        chains = read_records(synth / "synth" / "chains.jsonl")
        write_records(self.chains, [r for r in chains if self.study.conflicts or not r.meta["conflict"]])

    @property
    def chains(self) -> Path:
        """What the cold start learns from."""
        return self.out / "chains.jsonl"

    def with_data(self, folder: Path) -> Path:
        """The folder, with the clips of the study, which need not be rendered again."""
        if not (folder / "data").is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copytree(self.out / "synth" / "data", folder / "data")
        return folder

    def cold_start(self, seed: int) -> None:
        """Train and evaluate a seed's cold start."""
        folder = self.folder("cold start", seed)
        if not finished(folder / "eval" / "sft"):
            overrides = (f"seed={seed}", f"sft.chains={self.chains}", *self.study.sft)
            self.run("sft", self.with_data(folder), overrides)
            self.run("evaluation", folder, overrides)

    def label_start(self, seed: int) -> Path:
        """A seed's cold start on bare labels of the clips that the chains are about."""
        folder = self.with_data(self.folder("label start", seed))
        if not (folder / "sft" / "final").is_dir():
            every = (f"seed={seed}", *LABELS)
            self.run("evaluation.baselines labels", folder, (*every, f"baseline.labels.like={self.chains}"))
            chains = folder / "labels" / "chains.jsonl"
            self.run("sft", folder, (*every, f"sft.chains={chains}", *self.study.sft))
        return folder / "sft" / "final"

    def arm(self, name: str, arm: Arm, seed: int) -> None:
        """Train and evaluate an arm."""
        folder = self.folder(name, seed)
        if finished(folder / "eval" / EVALUATION[arm.verb]):
            return
        match arm.start:
            case "base":
                start = (self.out / "base").resolve()
            case "labels":
                start = self.label_start(seed)
            case _:
                start = self.folder("cold start", seed) / "sft" / "final"
        common = {
            "rl": (f"rl.init={start}", f"rl.chains={self.out / 'synth' / 'synth' / 'chains.jsonl'}", *self.study.rl),
            "sft": (f"sft.chains={self.chains}", *self.study.sft),
            "evaluation.baselines regression": (f"eval.init={start}",),
        }[arm.verb]
        overrides = (f"seed={seed}", *common, *arm.overrides)
        self.run(arm.verb, self.with_data(folder), overrides)
        if arm.verb in ("rl", "sft"):
            self.run("evaluation", folder, overrides)


def run(runs: Runs, names: Sequence[str], seeds: Sequence[int], jobs: int) -> None:
    """Everything, seed by seed, so that what is there when time is up is whole seeds."""
    runs.prepare()
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(runs.cold_start, seeds))
        list(pool.map(lambda job: runs.arm(*job), [(n, runs.study.arms[n], seed) for seed in seeds for n in names]))


def tables(runs: Runs, names: Sequence[str]) -> None:
    """Print how the arms compare with the first: on all test clips, then on those with a conflict; then their explanations."""
    shown = {"cold start": "sft"} | {name: EVALUATION[runs.study.arms[name].verb] for name in names}
    found = [f"{name}={runs.folder(name, '*')}/eval/{shown[name]}" for name in (*names, "cold start")]
    command = [sys.executable, "-m", "evaluation.compare"]
    curve = [] if runs.study.explained else ["--curve", "dev/polarity"]
    for more in ([], ["--where", "conflict=true"]):
        subprocess.run([*command, *found, "--metrics", METRICS, *curve, *more], check=True)
    if runs.study.explained:
        explaining = [f for f in found if not f.startswith("no thinking=")]
        subprocess.run([*command, *explaining, "--metrics", RATES], check=True)
