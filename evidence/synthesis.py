"""E6: what the filter of the synthesis finds of a teacher's known defects, and what it is worth to SFT.

The scripted teacher spoils six in ten of what the cue teacher writes (`conf/teacher/scripted.yaml`). Every seed has a teacher of
its own, and arms that learn from as many of its chains for as many steps:

    unfiltered    of all that it wrote
    well-formed   of what the grammar can read: the weakest filter that anybody would have
    filtered      of what was accepted
"""

import random
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from data_synth.output import rows
from evidence.filter import report
from evidence.studio import METRICS
from evidence.verbs import verb
from runtime.run import finished
from tasks.record import Record, read_records, write_records

EVERY = ("task=studio", "task.test=400", "eval.silence=[]", "run.threads=1")
SYNTH = ("synth.limit=null", "synth.copy_words=4")
"""The sentences of the studio have four to six words, so a whole one would never be as long as the default asks for."""
SFT = ("sft.eval_every=1000", "sft.save_every=1000")
ARMS = ("unfiltered", "well-formed", "filtered")
"""The first one is the reference."""
CHAINS = 200
"""As many as the built-in default has."""


@dataclass(frozen=True, slots=True)
class Synthesis:
    """The runs of E6 below a folder."""

    out: Path
    sft: tuple[str, ...] = SFT
    """Overrides of every SFT."""

    def folder(self, name: str, seed: int | str) -> Path:
        """Where an arm's run, or the teacher's, of a seed is; `*` for all of them."""
        return self.out / name / f"seed{seed}"

    def run(self, name: str, folder: Path, overrides: Sequence[str]) -> None:
        """Run a verb in a run folder, on the clips of the study, which are rendered once."""
        data = self.out / "honest" / "data"
        if not (folder / "data").exists() and data.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "data").symlink_to(data)
        verb(name, folder / f"{name}.log", (*EVERY, f"hydra.run.dir={folder}", *overrides))

    def teach(self, seeds: Sequence[int]) -> None:
        """Have the honest teacher write once, and a scripted one for every seed."""
        if not finished(self.out / "honest" / "synth"):
            self.run("data_synth", self.out / "honest", ("teacher=cue", *SYNTH))
        for seed in seeds:
            if not finished(self.folder("teacher", seed) / "synth"):
                self.run(
                    "data_synth", self.folder("teacher", seed), ("teacher=scripted", f"teacher.seed={seed}", *SYNTH)
                )

    def filtered(self, seeds: Sequence[int]) -> str:
        """The tables on the filter."""
        return report(self.out / "honest", [self.folder("teacher", seed) for seed in seeds])

    def train(self, arm: str, seed: int) -> None:
        """Train an arm on its chains and evaluate it."""
        folder = self.folder(arm, seed)
        if finished(folder / "eval" / "sft"):
            return
        chains = folder / "chains.jsonl"
        if not chains.is_file():
            found = pools(self.folder("teacher", seed))
            size = min(CHAINS, *map(len, found.values()))
            write_records(chains, random.Random(seed).sample(found[arm], size))
        overrides = (f"seed={seed}", f"sft.chains={chains}", *self.sft)
        self.run("sft", folder, overrides)
        self.run("evaluation", folder, overrides)


def pools(run: Path) -> dict[str, list[Record]]:
    """What each arm can learn from: the first drafts of a run, with the draft in the place of the rationale.

    A draft that is not in the grammar is trained on as it stands: whoever does not filter does not know of it.
    """
    records = {record.uid: record for record in read_records(run / "data" / "records.jsonl")}
    accepted = read_records(run / "synth" / "chains.jsonl")
    others = [row for row in rows(run / "synth" / "rejected.jsonl") if row["step"] == "write" and row["text"]]
    rejected = [(replace(records[row["uid"]], rationale=row["text"]), row["reason"]) for row in others]
    readable = [record for record, reason in rejected if not reason.startswith("fault:")]
    return {
        "unfiltered": accepted + [record for record, _ in rejected],
        "well-formed": accepted + readable,
        "filtered": accepted,
    }


def run(study: Synthesis, names: Sequence[str], seeds: Sequence[int], jobs: int) -> None:
    """Everything, seed by seed, so that what is there when time is up is whole seeds."""
    study.teach(seeds)
    verb("sft.perception", study.out / "perception.log", ())  # once, and not by several runs at a time
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda job: study.train(*job), [(name, seed) for seed in seeds for name in names]))


def tables(study: Synthesis, names: Sequence[str], seeds: Sequence[int]) -> None:
    """Print what the filter finds, then how the arms compare with the first."""
    print(study.filtered(seeds), flush=True)
    arms = [f"{name}={study.folder(name, '*')}/eval/sft" for name in names]
    command = [sys.executable, "-m", "evaluation.compare", *arms, "--metrics", METRICS]
    subprocess.run(command, check=True)
