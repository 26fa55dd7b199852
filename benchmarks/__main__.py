"""Side-by-side timings, each preceded by a check that all sides give the same numbers.

    python -m benchmarks [NAME ...]              or: make bench
    python -m benchmarks --device cuda           a 7B thinker with random weights, phase by phase

CPU seconds of one thread, medians; seconds of wall time, marked w, where processes work together. A machine that does other
things shifts them, and their ratios less. docs/performance.md says what came out and what it means.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks import device, engines, group, mel, ranks, sft, teacher
from benchmarks.scene import FULL, Scene, Size, make_scene
from benchmarks.step import whole_step
from benchmarks.timing import Comparison, Timing, measure
from runtime.errors import UndertoneError
from runtime.main import quiet


def timed(comparisons: Callable[[Scene], Sequence[Comparison]]) -> Callable[[Scene], Iterator[Timing]]:
    """Measure one comparison after the other."""
    return lambda scene: (measure(c, scene.size.repeats) for c in comparisons(scene))


ALL: dict[str, Callable[[Scene], Iterator[Timing | ranks.Scaling | teacher.Rates]]] = {
    "step": lambda scene: iter(whole_step(scene)),
    "scoring": timed(group.scoring),
    "sampling": timed(group.sampling),
    "growth": timed(group.growth),
    "engines": timed(engines.engines),
    "sft": timed(sft.packing),
    "mel": timed(mel.mel),
    "ranks": lambda scene: ranks.scaling(),
    "teacher": lambda scene: teacher.rates(),
}


def run(names: Sequence[str], size: Size, folder: Path) -> None:
    """Print the table, row by row as they come."""
    scene = make_scene(size, folder)
    model = sum(p.numel() for p in scene.model.parameters()) / 1e6
    print(f"{model:.1f} M parameters, G = {size.group}, C = {size.completion}, torch {torch.__version__}, 1 thread\n")
    print(f"| {'':34} | {'':24} | CPU s    | faster |")
    print(f"|{'-' * 36}|{'-' * 26}|{'-' * 10}|{'-' * 8}|")
    notes = []
    for name in names:
        timings = []
        for timing in ALL[name](scene):
            print("\n".join(timing.lines()), flush=True)
            timings.append(timing)
        if name == "scoring":
            notes.append(group.bound(scene))
        if name == "growth":
            notes.append(group.grown(timings[-1], scene))
        if name == "ranks":
            notes.append(timings[-1].note())
        if name in ("engines", "teacher") and find_spec("vllm") is None:
            notes.append(f"{name}, vllm: not run: vllm is not installed")
    print("", *notes, sep="\n")


def main(arguments: Sequence[str]) -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser("benchmarks", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(ALL)}; all of them by default")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    given = parser.parse_args(arguments)
    if unknown := sorted(set(given.names) - set(ALL)):
        parser.error(f"unknown name {unknown[0]!r}; choose from {', '.join(ALL)}")
    quiet()
    with tempfile.TemporaryDirectory() as place:
        if given.device == "cuda":
            print("\n".join(device.report(device.big_scene(Path(place), given.device))))
        else:
            torch.set_num_threads(1)
            run(given.names or list(ALL), FULL, Path(place))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UndertoneError as error:
        sys.exit(f"error: {error}")
