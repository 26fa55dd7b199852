"""`python -m evidence e1|e4 [--out outputs/evidence] [--seeds 0 1 2 3 4] [--jobs 2]`, then the tables, by `evaluation.compare`."""

import argparse
import subprocess
import sys
from pathlib import Path

from evidence import studio
from evidence.plan import E1, E4
from runtime.errors import UndertoneError

METRICS = "polarity,corr,mae"


def main(argv: list[str]) -> None:
    """Run what is not done, and print the tables: all test clips, then those with a conflict."""
    parser = argparse.ArgumentParser(prog="python -m evidence", description=__doc__)
    parser.add_argument("name", choices=("e1", "e4"))
    parser.add_argument("--out", type=Path, default=Path("outputs/evidence"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", nargs="+", help="only these, by name; all unless given")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, of one thread each")
    given = parser.parse_args(argv)
    arms = {"e1": E1, "e4": E4}[given.name]
    if unknown := set(given.arms or ()) - set(arms):
        parser.error(f"--arms: some of {list(arms)}; got {sorted(unknown)}")
    arms = {name: overrides for name, overrides in arms.items() if given.arms is None or name in given.arms}
    try:
        studio.run(given.out.resolve(), arms, given.seeds, given.jobs)
    except UndertoneError as error:
        sys.exit(f"error: {error}")
    named = {name: given.out / name.replace(" ", "_") / "seed*" for name in arms}
    if given.name == "e1":
        named |= {"cold start": given.out / "cold" / "seed*"}
    table = [sys.executable, "-m", "evaluation.compare", *(f"{name}={path}" for name, path in named.items())]
    for more in (["--curve", "dev/polarity"], ["--where", "conflict=true"]):
        subprocess.run([*table, "--metrics", METRICS, *more], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
