"""E2 and E5: real speech. Acted German sentences of speakers that were never heard, by the tiny model and by a classical baseline.

A stack of stages, chosen on the dev speaker: the bare labels of an English corpus (of its 14 first speakers), those of the German
training speakers, the German chains, and reinforcement. In E2 that is with and without hints, in E5 with what may be paid for an
explanation, and from the labels without any.
"""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from evidence.plan import PAID, READER, UNTHINKING, Arm
from evidence.readers import train_readers
from evidence.studio import RATES
from evidence.verbs import verb
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
STACK = ("labels", "chains")
"""The stages that are evaluated, too."""
NAMES = "explanation.names={happiness:[happiness]}"
"""The verifiers of the study know the emotions by the corpus's own names."""

HINTS: Mapping[str, Arm] = {
    "grpo": Arm(("hint=none",), start="chains"),
    "hinted": Arm(("hint=polarity_learnt",), start="chains"),
}
EXPLANATIONS: Mapping[str, Arm] = {
    name: Arm(("hint=polarity_learnt", *paid, *([NAMES] if paid else [])), start="chains")
    for name, paid in PAID.items()
} | {"no thinking": UNTHINKING}


@dataclass(frozen=True, slots=True)
class Speech:
    """The runs of E2, or of E5, below a folder."""

    out: Path
    arms: Mapping[str, Arm]
    """Reinforcement."""

    @property
    def explained(self) -> bool:
        """Whether explanations are paid for by one verifier and read by another."""
        return self.arms is EXPLANATIONS

    def folder(self, arm: str, seed: int | str) -> Path:
        """Where an arm's run of a seed is."""
        return self.out / arm.replace(" ", "_") / f"seed{seed}"

    def run(self, name: str, folder: Path, overrides: Sequence[str], speeds: str = SPEEDS) -> None:
        """Run a verb in a run folder."""
        log = folder / f"{name.replace(' ', '_')}.log"
        if name == "evaluation" and self.explained:
            overrides = (*(o for o in overrides if not o.startswith("explanation")), *READER, NAMES)
        given = [o.format(out=self.out) if "{out}" in o else o for o in overrides]
        verb(name, log, (*EVERY, speeds, f"hydra.run.dir={folder}", *given))

    def prepare(self) -> None:
        """Write chains and labels, and train the classical baseline, which has no seed to speak of."""
        if not (self.out / "english" / "labels" / "chains.jsonl").is_file():
            self.run("data_synth", self.out / "german", ("synth.limit=null",))
            self.run("evaluation.baselines labels", self.out / "german", LABELS)
            self.run("evaluation.baselines labels", self.out / "english", ENGLISH)
            self.run("evaluation.baselines classical", self.folder("classical", 0), ("seed=0",), "task.speeds=[]")
        if self.explained:
            train_readers(self.out, (*EVERY, SPEEDS), ["task=emodb"])

    def sft(self, name: str, seed: int, chains: str, overrides: Sequence[str]) -> Path:
        """The checkpoint of a stage of the stack."""
        folder = self.folder(name, seed)
        if not (folder / "sft" / "final").is_dir():
            self.run("sft", folder, (f"seed={seed}", f"sft.chains={self.out / chains / 'chains.jsonl'}", *overrides))
        return folder / "sft" / "final"

    def evaluate(self, arm: str, seed: int, stage: str, overrides: Sequence[str] = ()) -> None:
        """Score what a stage (sft, rl) made of an arm on the test speakers."""
        folder = self.folder(arm, seed)
        if not finished(folder / "eval" / stage):
            self.run("evaluation", folder, (f"seed={seed}", *overrides))

    def train(self, seed: int) -> None:
        """The whole stack of a seed, and the arms on top of it."""
        english = self.sft("english_labels", seed, "english/labels", (*ENGLISH, "sft.max_steps=400"))
        labels = self.sft("labels", seed, "german/labels", (*LABELS, f"sft.init={english}", "sft.max_steps=400"))
        self.evaluate("labels", seed, "sft", LABELS)
        chains = self.sft("chains", seed, "german/synth", (f"sft.init={labels}",))
        self.evaluate("chains", seed, "sft")
        for name, arm in self.arms.items():
            start = {"labels": labels, "chains": chains}[arm.start]
            if not (self.folder(name, seed) / "rl" / "final").is_dir():
                overrides = (
                    f"seed={seed}",
                    f"rl.init={start}",
                    *arm.overrides,
                    "rl.eval_every=0",
                    "rl.save_every=1000",
                )
                self.run("rl", self.folder(name, seed), overrides)
            self.evaluate(name, seed, "rl", arm.overrides)


def run(speech: Speech, seeds: Sequence[int], jobs: int) -> None:
    """Everything, seed by seed."""
    speech.prepare()
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(speech.train, seeds))


def tables(speech: Speech) -> None:
    """Print how the arms compare: with the classical baseline in E2, with what is paid nothing for explanations in E5."""
    stages = dict.fromkeys(STACK, "sft") | dict.fromkeys(speech.arms, "rl")
    arms = {arm: f"{arm}={speech.folder(arm, '*')}/eval/{stage}" for arm, stage in stages.items()}
    arms |= {"classical": f"classical={speech.folder('classical', '*')}/eval/classical"}
    first = "none" if speech.explained else "classical"
    command = [sys.executable, "-m", "evaluation.compare", arms.pop(first)]
    subprocess.run([*command, *arms.values(), "--metrics", "uar,war,macro_f1"], check=True)
    if speech.explained:
        explaining = [place for arm, place in arms.items() if arm not in ("classical", "labels", "no thinking")]
        subprocess.run([*command, *explaining, "--metrics", RATES], check=True)
