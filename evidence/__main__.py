"""`python -m evidence e1|e1-no-conflict|e4 [--seeds 0 1 2 3 4] [--jobs 2]`, then the tables, by `evaluation.compare`."""

import argparse
import subprocess
import sys
from pathlib import Path

from evidence.plan import STUDIES
from evidence.studio import EVALUATION, Runs, run
from runtime.errors import UndertoneError

METRICS = "polarity,corr,mae"


def main(argv: list[str]) -> None:
    """Run what is not done, and print the tables: all test clips, then those with a conflict."""
    parser = argparse.ArgumentParser(prog="python -m evidence", description=__doc__)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--out", type=Path, help="folder of the runs; outputs/evidence/STUDY unless given")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", nargs="+", help="only these, by name; all unless given")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, of one thread each")
    given = parser.parse_args(argv)
    study = STUDIES[given.study]
    if unknown := set(given.arms or ()) - set(study.arms):
        parser.error(f"--arms: some of {list(study.arms)}; got {sorted(unknown)}")
    names = [name for name in study.arms if given.arms is None or name in given.arms]
    runs = Runs(study, (given.out or Path("outputs/evidence") / given.study).resolve())
    try:
        run(runs, names, given.seeds, given.jobs)
    except UndertoneError as error:
        sys.exit(f"error: {error}")
    shown = {"cold start": "sft"} | {name: EVALUATION[study.arms[name].verb] for name in names}
    first, *others = names
    found = [f"{name}={runs.folder(name, '*')}/eval/{shown[name]}" for name in (first, *others, "cold start")]
    table = [sys.executable, "-m", "evaluation.compare", *found, "--metrics", METRICS, "--curve", "dev/polarity"]
    for more in ([], ["--where", "conflict=true"]):
        subprocess.run([*table, *more], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
