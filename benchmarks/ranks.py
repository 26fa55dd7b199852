"""Weak scaling: a GRPO step of two ranks that train together, against that of one rank with as many prompts as each of them.

Every rank is a process of one thread, started by torchrun, whose steps are timed by the clock on the wall. Two processes on one
machine share its memory, its caches and perhaps a core, and are slower than one that is alone even if they have nothing to say
to each other. So a third setting tells what two ranks could reach here: two trainings of one rank each, at the same time. All
three take turns.

    python -m benchmarks ranks
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from statistics import median

import torch

from benchmarks.scene import FULL, SMOKE, make_scene
from benchmarks.step import WARM, WHOLE, Stopwatch, ours
from benchmarks.timing import UnequalError
from runtime.main import quiet

ROUNDS = 3
SIZES = {"full": FULL, "smoke": SMOKE}


@dataclass(frozen=True, slots=True)
class Rank:
    """What a rank says at its end."""

    seconds: Sequence[float]
    """Of each step, without the first ones."""
    weights: str
    """Digest of all of them after the last step."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """Seconds of a step, each the median over steps, ranks and rounds."""

    alone: float
    apart: float
    """Of two trainings of one rank each, at the same time."""
    together: float
    """Of one training of two ranks."""

    def lines(self) -> list[str]:
        """The comparison as rows of a markdown table."""
        ways = {"one rank": self.alone, "two, each by itself": self.apart, "two of one training": self.together}
        name = "GRPO step, work of a rank the same"
        return [
            f"| {name if i == 0 else '':34} | {way:24} | {seconds:6.3f} w | {'' if i == 0 else f'{self.alone / seconds:.2f}':>6} |"
            for i, (way, seconds) in enumerate(ways.items())
        ]

    def note(self) -> str:
        """The two ratios in words."""
        return (
            f"ranks: seconds of wall time; two ranks of one training step at {self.alone / self.together:.2f} of the speed "
            f"of one rank alone, and at {self.apart / self.together:.2f} of that of two that share nothing"
        )


def main(size: str, folder: str) -> None:
    """Be a rank: train, and write what there is to say to `folder/RANK.json`."""
    quiet()
    torch.set_num_threads(1)
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    own = Path(folder) / f"clips{rank}"
    own.mkdir(parents=True)
    watch = Stopwatch(time.perf_counter)
    trainer = ours(make_scene(SIZES[size], own), watch, ranks)
    trainer.train()
    state = b"".join(p.detach().numpy().tobytes() for p in trainer.policy.parameters())
    said = Rank([step[WHOLE] for step in watch.steps[WARM:]], sha256(state).hexdigest())
    (Path(folder) / f"{rank}.json").write_text(json.dumps(asdict(said)))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _train(size: str, folder: Path, ranks: Sequence[int]) -> list[list[Rank]]:
    """Trainings of so many ranks, all at the same time.

    Raises:
        RuntimeError: with what the first that failed had to say.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    started = []
    for number, count in enumerate(ranks):
        place = folder / str(number)
        work = ["--nproc-per-node", str(count), "-m", "benchmarks.ranks", size, str(place)]
        process = subprocess.Popen(
            [*command, *work], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started.append((process, place, count))
    for process, _, _ in started:
        said, _ = process.communicate()
        if process.returncode:
            for other, _, _ in started:
                other.terminate()  # torchrun ends its ranks
            raise RuntimeError(f"a rank failed:\n{said[-3000:]}")
    return [
        [Rank(**json.loads((place / f"{rank}.json").read_text())) for rank in range(count)]
        for _, place, count in started
    ]


def scaling(size: str = "full", rounds: int = ROUNDS) -> Iterator[Scaling]:
    """The comparison.

    Raises:
        UnequalError: when two trainings of one rank do not end with the weights of one that is alone, or the ranks of one
            training not with the same, or with those of a rank that learnt alone.
    """
    settings = {"alone": [1], "apart": [1, 1], "together": [2]}
    seconds: Mapping[str, list[float]] = {name: [] for name in settings}
    weights: Mapping[str, set[str]] = {name: set() for name in settings}
    for _ in range(rounds):
        for name, ranks in settings.items():
            with tempfile.TemporaryDirectory() as folder:
                for rank in (r for training in _train(size, Path(folder), ranks) for r in training):
                    seconds[name] += rank.seconds
                    weights[name].add(rank.weights)
    if weights["alone"] != weights["apart"] or len(weights["alone"] | weights["together"]) != 2:
        raise UnequalError(
            f"ranks: final weights differ where they must not, {weights}; their times cannot be compared"
        )
    yield Scaling(**{name: median(found) for name, found in seconds.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
