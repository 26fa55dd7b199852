"""`python -m evidence e1|e1-confirm|e1-no-conflict|e3|e4 [--seeds 0 1 2 3 4] [--jobs 2]`: run what is not done, then print the tables."""

import argparse
import sys
from pathlib import Path

from evidence import studio, text
from evidence.plan import STUDIES
from runtime.errors import UndertoneError


def main(argv: list[str]) -> None:
    """Read the arguments, run, and print."""
    parser = argparse.ArgumentParser(prog="python -m evidence", description=__doc__)
    parser.add_argument("study", choices=(*STUDIES, "e3"))
    parser.add_argument("--out", type=Path, help="folder of the runs; outputs/evidence/STUDY unless given")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", nargs="+", help="only these, by name; all unless given")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, of one thread each")
    given = parser.parse_args(argv)
    known = list(text.ARMS if given.study == "e3" else STUDIES[given.study].arms)
    if unknown := set(given.arms or ()) - set(known):
        parser.error(f"--arms: some of {known}; got {sorted(unknown)}")
    arms = [name for name in known if given.arms is None or name in given.arms]
    out = (given.out or Path("outputs/evidence") / given.study).resolve()
    try:
        if given.study == "e3":
            text.run(text.Texts(out), arms, given.seeds, given.jobs)
            text.tables(text.Texts(out), arms)
        else:
            runs = studio.Runs(STUDIES[given.study], out)
            studio.run(runs, arms, given.seeds, given.jobs)
            studio.tables(runs, arms)
    except UndertoneError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
