"""A small text task, a rendered data set, and settings for the synthesis tests."""

from pathlib import Path

import pytest

from data_synth.config import SynthConfig
from tasks.base import Dataset, Task
from tasks.record import Record
from tasks.studio.task import Studio
from tasks.target import Scalar


class Remarks(Task):
    """Short remarks with an intensity on [-3, 3]."""

    def __init__(self, grammar="dc"):
        super().__init__(name="remarks", views=["text", "audio", "video"], grammar=grammar)

    def prepare(self, folder):
        raise NotImplementedError("the tests hand in their records")

    def question(self, record):
        return "How strong is the sentiment, from -3 to 3?"

    def metrics(self, gold, answers):
        return {}

    def baseline(self, train, test):
        return []


@pytest.fixture
def remarks():
    return Remarks()


@pytest.fixture
def remark():
    """Makes one record of the task."""

    def make(uid="r-1", text="what a lovely day", x=2.0, split="train", **more):
        target = more.pop("target", Scalar(x, -3, 3, 0.2))
        views = more.pop("views", {"text": text})
        return Record(uid=uid, task="remarks", split=split, group=uid, views=views, target=target, **more)

    return make


@pytest.fixture
def settings():
    return SynthConfig(
        seed=0,
        limit=None,
        candidates=1,
        rewrite=False,
        min_calibrate=0.9,
        min_words=2,
        max_words=60,
        copy_words=8,
        copy_share=0.5,
        leak_phrases=["the label is"],
        language="en",
        near_duplicate=None,
        balance=None,
        shard=None,
    )


@pytest.fixture(scope="session")
def studio(tmp_path_factory) -> tuple[Task, Dataset]:
    """Sixty rendered training clips, four in ten with words that contradict voice and face."""
    task = Studio(
        name="studio", views=["video", "audio", "text"], grammar="dc", train=60, dev=1, test=1, conflict=0.4, seed=0
    )
    folder: Path = tmp_path_factory.mktemp("studio")
    return task, task.dataset(folder)
