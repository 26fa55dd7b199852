"""What dishonest completions earn under every reward that is shipped."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from data_synth.cue import CueTeacher
from data_synth.teacher import blind
from evaluation.canaries import EXPLANATIONS, canaries, common_answer, margins
from evaluation.grading import ExplanationConfig, Grader, RewardConfig
from evaluation.judge import OFF_LIST, Opinion
from runtime.config import section
from tasks.base import Dataset
from tasks.dc import GRAMMARS, Answer, parse, render
from tasks.record import Record
from tasks.studio.task import Studio
from tasks.target import Class, Scalar, Space

CONF = Path(__file__).parents[2] / "conf"
SHIPPED = sorted(path.stem for path in (CONF / "explanation").glob("*.yaml"))
REWARDS = sorted(path.stem for path in (CONF / "reward").glob("*.yaml"))


class Sides:
    """Reads a side out of words for it and out of the studio's cues: as good a verifier as there can be."""

    labels = ("negative", "neutral", "positive")
    UP = ("up", "wonderful", "joy", "love", "happy", "great", "high")
    DOWN = ("down", "terrible", "sadness", "anger", "hate", "awful", "low")

    def probabilities(self, texts):
        rows = []
        for text in texts:
            words = text.lower().replace(",", " ").replace(".", " ").split()
            up, down = (sum(w in side for w in words) for side in (self.UP, self.DOWN))
            rows.append((down, 1e-3 + (up == down), up))
        rows = np.array(rows, dtype=float)
        return rows / rows.sum(1, keepdims=True)


class Judging:
    """The same as a judge: the side of the whole explanation, nothing where it has none."""

    cfg = SimpleNamespace(media=False)

    def opinions(self, items):
        [*rows] = Sides().probabilities([item.explanation for item in items])
        said = [Sides.labels[int(row.argmax())] if row[1] < 0.9 else None for row in rows]
        return [Opinion(label, None if label else OFF_LIST) for label in said]


@pytest.fixture(scope="module")
def studio(tmp_path_factory) -> tuple[Studio, Dataset, list[str]]:
    """Rendered clips, and what the cue teacher says about them without their label: right on most."""
    task = Studio(
        name="s", views=["text", "audio", "video"], grammar="dc", train=40, dev=0, test=0, conflict=None, seed=0
    )
    data = task.dataset(tmp_path_factory.mktemp("studio"))
    teacher = CueTeacher(edge=0.5)

    async def write() -> list[str]:
        drafts = [await teacher.write(blind(task, record, data.root), [0]) for record in data.records]
        return [draft.text or "" for (draft,) in drafts]

    return task, data, asyncio.run(write())


def settings(explanation: str, reward: str) -> tuple[ExplanationConfig, RewardConfig]:
    with initialize_config_dir(str(CONF), version_base=None):
        cfg = compose("pipeline", [f"explanation={explanation}", f"reward={reward}", "run.dir=."])
    return section(cfg, "explanation", ExplanationConfig), section(cfg, "reward", RewardConfig)


@pytest.mark.parametrize("name", REWARDS)
@pytest.mark.parametrize("explanation", SHIPPED)
def test_no_shipped_reward_pays_a_canary_as_well_as_an_honest_answer(studio, explanation: str, name: str):
    task, data, honest = studio
    cfg, weights = settings(explanation, name)
    judge = Judging() if cfg.judge else None
    grader = Grader(task, data, cfg, Sides() if cfg.verifier else None, judge)  # type: ignore[arg-type]
    found = margins(task, grader.grade, weights.weights, data.records, honest, common_answer(task, data))
    read = ("broken", "blind", "parasitic") if cfg.asks else ("broken", "blind")  # unread, an explanation costs nothing
    paid = {n for n, (kind, margin) in found.items() if kind in read and margin <= 1e-9}
    assert paid == set()


def record(target) -> Record:
    return Record(uid="a", task="t", split="train", group="a", views={"text": "so it is"}, target=target)


@pytest.mark.parametrize("grammar", sorted(set(GRAMMARS) - {"answer"}))
@pytest.mark.parametrize(
    "target", [Scalar(1.5, -3.0, 3.0, 0.2), Class("joy", Space(("joy", "anger"), ("positive", "negative")))]
)
def test_canaries_are_what_they_say(grammar: str, target):
    task = Studio(name="s", views=["text"], grammar=grammar, train=1, dev=0, test=0, conflict=None, seed=0)
    form, item = GRAMMARS[grammar], record(target)
    bodies = {block: "voice up" for block in form.blocks if block != "answer"}
    honest = Answer(target, target.coarse() if form.verdict else None, bodies)
    found = canaries(task, item, honest, target)
    assert len({c.name for c in found}) == len(found) >= 8 + 2 * len(EXPLANATIONS)
    for canary in found:
        read = parse(canary.text, target, form)
        assert isinstance(read, Answer) == (canary.kind != "broken"), canary
        assert canary.text != render(honest, form)


class Named:
    """Finds an emotion where its name stands, and else neutral."""

    labels = ("anger", "joy", "neutral")

    def probabilities(self, texts):
        rows = np.array([[float(label in text.lower()) for label in self.labels] for text in texts])
        rows[rows.sum(1) == 0, 2] = 1.0
        return rows


@pytest.mark.parametrize(("explanation", "pays"), [("erv", True), ("own", True), ("gated", False), ("evidence", False)])
def test_published_rewards_pay_for_a_flood_of_emotion_words_and_the_default_ones_do_not(explanation: str, pays: bool):
    """On classes, with an honest explanation that says more than the name of the emotion."""
    space = Space(("anger", "joy"), ("negative", "positive"))
    task = Studio(name="s", views=["text"], grammar="think", train=1, dev=0, test=0, conflict=None, seed=0)
    item = record(Class("anger", space))
    honest = "<think>The words are flat. It sounds like anger. Is there some joy in it?</think><answer>anger</answer>"
    cfg, weights = settings(explanation, "default")
    grader = Grader(task, Dataset((item,), Path(".")), cfg, Named())
    found = margins(task, grader.grade, weights.weights, [item], [honest], Class("joy", space))
    kind, margin = found["flood of emotion words, parasitic"]
    assert kind == "parasitic" and (margin < 0) == pays
    assert all(m > 0 for name, (kind, m) in found.items() if kind == "broken")
