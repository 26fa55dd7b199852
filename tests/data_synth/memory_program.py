"""`python memory_program.py COUNT FOLDER`: a synthesis of COUNT texts with a teacher that only echoes; prints its peak memory."""

import json
import random
import resource
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_synth.config import SynthConfig
from data_synth.run import synthesize
from data_synth.teacher import Case, Draft, Teacher
from tasks.base import Task
from tasks.record import Record, write_records
from tasks.target import Scalar


class Echo(Teacher):
    """Answers at once, and always the same."""

    name = "echo"
    concurrency = 64

    def settings(self):
        return {}

    async def write(self, case: Case, indices: Sequence[int]) -> list[Draft]:
        reasons = f"<discriminate>positive: {case.views['text']}</discriminate><calibrate>said plainly</calibrate>"
        return [Draft(f"{reasons}<answer>2.0</answer>") for _ in indices]


class Remarks(Task):
    """Whose record file is there already."""

    def prepare(self, folder: Path) -> Path:
        return folder

    def question(self, record):
        return "How strong is the sentiment, from -3 to 3?"

    def metrics(self, gold, answers):
        return {}

    def baseline(self, train, test):
        return []


def records(count: int) -> Iterator[Record]:
    """Texts of sixty words, each its own group; one in ten is labelled against the teacher."""
    draw = random.Random(0)
    for i in range(count):
        text = " ".join(f"w{draw.randrange(5000)}" for _ in range(60))
        target = Scalar(2 if i % 10 else -2, -3, 3, 0.2)
        yield Record(uid=f"r-{i}", task="remarks", split="train", group=f"g-{i}", views={"text": text}, target=target)


if __name__ == "__main__":
    count, folder = int(sys.argv[1]), Path(sys.argv[2])
    write_records(folder / "records.jsonl", records(count))
    task = Remarks(name="remarks", views=["text"])
    settings = SynthConfig(
        seed=0,
        limit=None,
        candidates=1,
        rewrite=False,
        min_calibrate=0.9,
        min_words=2,
        max_words=100,
        copy_words=None,  # the teacher echoes
        copy_share=None,
        leak_phrases=["the label is"],
        language=None,  # of no language, either
        near_duplicate=0.9 if "--near-duplicates" in sys.argv else None,
        balance=None,
        shard=None,
    )
    result = synthesize(task, task.dataset(folder, stream=True), Echo(), settings, folder / "synth")
    print(json.dumps(result | {"peak_kb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))
