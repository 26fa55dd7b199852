"""`python -m evidence STUDY [--seeds 0 1 2 3 4] [--jobs 2]`: run what is not done, then print the tables. See docs/evidence.md."""

import argparse
import sys
from pathlib import Path

from evidence import speech, studio, synthesis, text
from evidence.plan import STUDIES
from runtime.errors import UndertoneError

SPEECH = {"e2": speech.HINTS, "e5-speech": speech.EXPLANATIONS}
"""The studies of real speech, by their arms."""


def main(argv: list[str]) -> None:
    """Read the arguments, run, and print."""
    parser = argparse.ArgumentParser(prog="python -m evidence", description=__doc__)
    parser.add_argument("study", choices=(*STUDIES, *SPEECH, "e3", "e6", "e6-filter"))
    parser.add_argument("--out", type=Path, help="folder of the runs; outputs/evidence/STUDY unless given")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", nargs="+", help="only these, by name; all unless given")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, of one thread each")
    given = parser.parse_args(argv)
    others = {"e3": text.ARMS, "e6": synthesis.ARMS, "e6-filter": synthesis.ARMS}
    known = list((SPEECH | others).get(given.study) or STUDIES[given.study].arms)
    if unknown := set(given.arms or ()) - set(known):
        parser.error(f"--arms: some of {known}; got {sorted(unknown)}")
    if given.arms and given.study in SPEECH:
        parser.error(f"--arms: those of {given.study} go on from one stack, and all of them are run; leave it out")
    arms = [name for name in known if given.arms is None or name in given.arms]
    out = (given.out or Path("outputs/evidence") / given.study).resolve()
    try:
        if given.study in SPEECH:
            runs = speech.Speech(out, SPEECH[given.study])
            speech.run(runs, given.seeds, given.jobs)
            speech.tables(runs)
        elif given.study == "e3":
            text.run(text.Texts(out), arms, given.seeds, given.jobs)
            text.tables(text.Texts(out), arms)
        elif given.study.startswith("e6"):
            study = synthesis.Synthesis(out)
            if given.study == "e6":
                synthesis.run(study, arms, given.seeds, given.jobs)
                synthesis.tables(study, arms, given.seeds)
            else:
                study.teach(given.seeds)
                print(study.filtered(given.seeds))
        else:
            runs = studio.Runs(STUDIES[given.study], out)
            studio.run(runs, arms, given.seeds, given.jobs)
            studio.tables(runs, arms)
    except UndertoneError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
