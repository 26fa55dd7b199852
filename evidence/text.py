"""E3: a real pretrained language model with an adapter, trained on tweets or on movie snippets and asked about other corpora.

Score-only SFT sees every training record's label; chain SFT the accepted chains of a lexicon; GRPO and Hint-GRPO go on from
the latter. Nobody sees a label of what is asked about, in words of the scale that the policy was taught in.
"""

import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluation.compare.runs import Run, read_arm
from evaluation.compare.tables import table
from evaluation.stats import RESAMPLES, Arm, holm, mean_difference, mean_interval, measure_arm
from evidence.verbs import verb
from runtime.run import finished
from tasks.target import Scalar

EVERY = ("experiment=vader_smollm2", "model.dtype=bfloat16", "rl.parity_tolerance=5e-2", "run.threads=1")
SFT = ("sft.max_steps=50", "sft.eval_every=1000", "sft.save_every=1000")
RL = ("rl.max_steps=12", "rl.budget=30000", "rl.eval_every=0", "rl.save_every=1000")
ASKED = ("task.limit={train: 600, dev: 100, test: 100}", "model.dtype=bfloat16", "run.threads=1")

TRAINED = ("vader_tweets", "vader_movies")
FOREIGN = {"vader_tweets": ("vader_movies", "emobank", "mosi"), "vader_movies": ("vader_tweets", "emobank", "mosi")}
"""What a policy that was trained on a corpus is asked about."""
ARMS = {"score only": "sft", "chains": "sft", "grpo": "rl", "hinted": "rl"}
"""Arm -> the verb that makes its policy; the first is the reference."""


@dataclass(frozen=True, slots=True)
class Texts:
    """The runs of E3 below a folder."""

    out: Path

    def folder(self, trained: str, arm: str, seed: int | str) -> Path:
        """Where an arm's run of a seed is."""
        return self.out / trained / arm.replace(" ", "_") / f"seed{seed}"

    def run(self, name: str, trained: str, folder: Path, overrides: Sequence[str]) -> None:
        """Run a verb on a training corpus."""
        log = folder / f"{name.replace(' ', '_')}.log"
        verb(name, log, (*EVERY, f"task={trained}", f"hydra.run.dir={folder}", *overrides))

    def prepare(self, trained: str) -> None:
        """Write the chains of a corpus, and its bare labels."""
        if not (self.out / trained / "labels" / "labels" / "chains.jsonl").is_file():
            self.run("data_synth", trained, self.out / trained, ())
            labels = self.out / trained / "labels"
            self.run("evaluation.baselines labels", trained, labels, ("task.grammar=answer",))

    def train(self, trained: str, arm: str, seed: int) -> None:
        """Train an arm, and ask it about the other corpora."""
        folder = self.folder(trained, arm, seed)
        chains, labels = (self.out / trained / f / "chains.jsonl" for f in ("synth", "labels/labels"))
        init = self.folder(trained, "chains", seed) / "sft" / "final"
        of_arm = {
            "score only": (*SFT, "task.grammar=answer", f"sft.chains={labels}"),
            "chains": (*SFT, f"sft.chains={chains}"),
            "grpo": (*RL, f"rl.init={init}", "hint=none"),
            "hinted": (*RL, f"rl.init={init}", "hint=polarity_learnt"),
        }[arm]
        final = folder / ARMS[arm] / "final"
        if not final.is_dir():
            self.run(ARMS[arm], trained, folder, (f"seed={seed}", *of_arm))
        grammar = ("task.grammar=answer",) if arm == "score only" else ()
        for asked in FOREIGN[trained]:
            there = folder / f"on_{asked}"
            if not finished(there / "eval" / "init"):
                split = ("eval.split=dev",) if asked == "mosi" else ()  # its test set is not passed on
                about = (f"task={asked}", f"eval.init={final}", f"hydra.run.dir={there}", f"seed={seed}")
                log = there / "evaluation.log"
                verb("evaluation", log, ("experiment=cross_domain", *ASKED, *about, *grammar, *split))


def run(texts: Texts, names: Sequence[str], seeds: Sequence[int], jobs: int) -> None:
    """Everything, seed by seed; arms in the order of ARMS, since some go on from others."""
    for trained in TRAINED:
        texts.prepare(trained)

    def arms(job: tuple[int, str]) -> None:
        for arm in names:
            texts.train(job[1], arm, job[0])

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(arms, [(seed, trained) for seed in seeds for trained in TRAINED]))


def across(parts: Sequence[Sequence[Run]], resamples: int = RESAMPLES) -> dict[str, Arm]:
    """Corr, and MAE as a share of the scale, of one arm: means over several evaluations.

    Args:
        parts: of each evaluation the run of every seed.
        resamples: bootstrap samples of the items of all evaluations together.
    """
    records = [list(part[0].records.values()) for part in parts]
    starts = np.cumsum([0, *map(len, records)])
    groups = [
        f"{r.task}/{r.group}" for part in records for r in part
    ]  # two policies asked about one text are no two texts

    def of_seed(seed: int) -> Callable[[np.ndarray], dict[str, float]]:
        runs = [next(run for run in part if run.seed == seed) for part in parts]

        def metrics(items: np.ndarray) -> dict[str, float]:
            found = []
            for run, part, lo, hi in zip(runs, records, starts, starts[1:], strict=False):
                drawn = [part[i - lo] for i in items if lo <= i < hi]
                m = run.task.metrics([r.target for r in drawn], [run.answers[r.uid] for r in drawn])
                target = drawn[0].target
                assert isinstance(target, Scalar)
                found.append((m["corr"], m["mae"] / (target.hi - target.lo)))
            corr, mae = np.mean(found, axis=0)
            return {"corr": float(corr), "mae": float(mae)}

        return metrics

    return measure_arm({run.seed: of_seed(run.seed) for run in parts[0]}, groups, resamples)


def summary(texts: Texts, names: Sequence[str]) -> str:
    """The table over all pairs of a training corpus and a corpus that it was asked about."""
    found = {
        name: across(
            [
                read_arm(name, f"{texts.folder(trained, name, '*')}/on_{asked}/eval/init").runs
                for trained in TRAINED
                for asked in FOREIGN[trained]
            ]
        )
        for name in names
    }
    first = names[0]
    tests = {
        (n, m): mean_difference(found[n][m], found[first][m]) for n in found if n != first for m in ("corr", "mae")
    }
    corrected = dict(zip(tests, holm([d.p for d in tests.values()]), strict=True))

    def cells(name: str) -> list[str]:
        row = [name, str(len(found[name]["corr"].seeds))]
        for metric in ("corr", "mae"):
            i = mean_interval(found[name][metric])
            row.append(f"{i.value:.3f} [{i.lo:.3f}, {i.hi:.3f}]")
            d = tests.get((name, metric))
            row.append(
                f"{d.value:+.3f} [{d.lo:+.3f}, {d.hi:+.3f}], p {d.p:.3f}, Holm {corrected[name, metric]:.3f}"
                if d
                else ""
            )
        return row

    head = ["arm", "seeds", "corr ↑", f"minus {first}", "mae / scale ↓", f"minus {first}"]
    return table(head, [cells(name) for name in found])


def tables(texts: Texts, names: Sequence[str]) -> None:
    """Print the summary, then every pair of corpora."""
    print(summary(texts, names), flush=True)
    for trained in TRAINED:
        for asked in FOREIGN[trained]:
            arms = [f"{name}={texts.folder(trained, name, '*')}/on_{asked}/eval/init" for name in names]
            print(f"\ntrained on {trained}, asked about {asked}:\n", flush=True)
            command = [sys.executable, "-m", "evaluation.compare", *arms, "--metrics", "corr,mae"]
            subprocess.run(command, check=True)
