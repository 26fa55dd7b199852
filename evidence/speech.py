"""E2: real speech. Acted German sentences of speakers that were never heard, by the tiny model and by a classical baseline.

A stack of stages, chosen on the dev speaker: the bare labels of an English corpus (of its 14 first speakers), those of the German
training speakers, the German chains, and reinforcement.
"""

import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from evidence.studio import verb
from runtime.run import finished

EVERY = ("experiment=emodb", "eval.silence=[audio]", "run.threads=1", "sft.eval_every=1000", "sft.save_every=1000")
ENGLISH = (
    "task=ravdess",
    "task.grammar=answer",
    "task.train=['01','02','03','04','05','06','07','08','09','10','11','12','13','14']",
    "task.dev=['15']",
    "task.test=['16']",
)
LABELS = ("task.grammar=answer",)
SPEEDS = "task.speeds=[0.85,0.93,1.08,1.17]"
"""Of what the policy learns from. The classical baseline has none: on the dev speaker it is .89 without them and .82 with them."""
ARMS = {"labels": "sft", "chains": "sft", "grpo": "rl", "hinted": "rl"}
"""Arm -> what trains it."""


@dataclass(frozen=True, slots=True)
class Speech:
    """The runs of E2 below a folder."""

    out: Path

    def folder(self, arm: str, seed: int | str) -> Path:
        """Where an arm's run of a seed is."""
        return self.out / arm / f"seed{seed}"

    def run(self, name: str, folder: Path, overrides: Sequence[str], speeds: str = SPEEDS) -> None:
        """Run a verb in a run folder."""
        log = folder / f"{name.replace(' ', '_')}.log"
        verb(name, log, (*EVERY, speeds, f"hydra.run.dir={folder}", *overrides))

    def prepare(self) -> None:
        """Write chains and labels, and train the classical baseline, which has no seed to speak of."""
        if not (self.out / "english" / "labels" / "chains.jsonl").is_file():
            self.run("data_synth", self.out / "german", ("synth.limit=null",))
            self.run("evaluation.baselines labels", self.out / "german", LABELS)
            self.run("evaluation.baselines labels", self.out / "english", ENGLISH)
            self.run("evaluation.baselines classical", self.folder("classical", 0), ("seed=0",), "task.speeds=[]")

    def sft(self, name: str, seed: int, chains: str, overrides: Sequence[str]) -> Path:
        """The checkpoint of a stage of the stack."""
        folder = self.folder(name, seed)
        if not (folder / "sft" / "final").is_dir():
            self.run("sft", folder, (f"seed={seed}", f"sft.chains={self.out / chains / 'chains.jsonl'}", *overrides))
        return folder / "sft" / "final"

    def evaluate(self, arm: str, seed: int, overrides: Sequence[str] = ()) -> None:
        """Score an arm on the test speakers."""
        folder = self.folder(arm, seed)
        if not finished(folder / "eval" / ARMS[arm]):
            self.run("evaluation", folder, (f"seed={seed}", *overrides))

    def train(self, seed: int) -> None:
        """The whole stack of a seed."""
        english = self.sft("english_labels", seed, "english/labels", (*ENGLISH, "sft.max_steps=400"))
        labels = self.sft("labels", seed, "german/labels", (*LABELS, f"sft.init={english}", "sft.max_steps=400"))
        self.evaluate("labels", seed, LABELS)
        chains = self.sft("chains", seed, "german/synth", (f"sft.init={labels}",))
        self.evaluate("chains", seed)
        for arm, hint in (("grpo", "none"), ("hinted", "polarity_learnt")):
            if not (self.folder(arm, seed) / "rl" / "final").is_dir():
                overrides = (
                    f"seed={seed}",
                    f"rl.init={chains}",
                    f"hint={hint}",
                    "rl.eval_every=0",
                    "rl.save_every=1000",
                )
                self.run("rl", self.folder(arm, seed), overrides)
            self.evaluate(arm, seed)


def run(speech: Speech, seeds: Sequence[int], jobs: int) -> None:
    """Everything, seed by seed."""
    speech.prepare()
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(speech.train, seeds))


def tables(speech: Speech) -> None:
    """Print how the arms compare with the classical baseline."""
    arms = [f"{arm}={speech.folder(arm, '*')}/eval/{stage}" for arm, stage in ARMS.items()]
    command = [
        sys.executable,
        "-m",
        "evaluation.compare",
        f"classical={speech.folder('classical', '*')}/eval/classical",
    ]
    subprocess.run([*command, *arms, "--metrics", "uar,war,macro_f1"], check=True)
