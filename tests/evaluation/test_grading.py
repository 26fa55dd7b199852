"""Explanations as a part of the score: a scripted verifier, real clips for the evidence."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from evaluation.grading import ExplanationConfig, Grader
from evaluation.judge import Item, Opinion
from runtime.errors import ConfigError
from tasks.base import Dataset
from tasks.dc import Fault
from tasks.record import Record
from tasks.speech_emotion.task import SpeechEmotion
from tasks.studio.task import Studio, caption
from tasks.target import Class, Scalar, Space

LABELS = ("anger", "joy", "neutral")
SPACE = Space(("anger", "happiness", "neutral"), ("negative", "positive", "neutral"))


class Words:
    """A verifier that finds a label where its name stands in the sentence, and else `neutral`."""

    def __init__(self, labels: Sequence[str] = LABELS) -> None:
        self.labels = tuple(labels)
        self.batches: list[list[str]] = []

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        self.batches.append(list(texts))
        rows = np.array([[float(label in text) for label in self.labels] for text in texts])
        rows[rows.sum(1) == 0, self.labels.index("neutral")] = 1.0
        return rows


def config(**changes) -> ExplanationConfig:
    values = {
        "verifier": "words",
        "judge": False,
        "against": "gold",
        "gate": False,
        "threshold": 0.1,
        "most": 2,
        "zone": 0.1,
        "names": {"happiness": ["joy"]},
        "valence": {"anger": -1, "joy": 1, "neutral": 0},
        "coverage": False,
        "words": None,
        "emotion_words": None,
        "repeats": True,
        "evidence": False,
        "edge": 0.5,
    }
    return ExplanationConfig(**(values | changes))


def emotion(grammar: str = "think") -> SpeechEmotion:
    return SpeechEmotion(
        name="speech",
        views=["text"],
        grammar=grammar,
        corpus="emodb",
        data=".",
        labels=["anger", "happiness", "neutral"],
        train=["03"],
        dev=[],
        test=[],
        speeds=[],
    )


def record(label: str, uid: str = "a", text: str = "so it is") -> Record:
    return Record(uid=uid, task="t", split="train", group=uid, views={"text": text}, target=Class(label, SPACE))


def grade(gold: str, *completions: str, task=None, reader: Words | None = Words(), **changes) -> list:  # noqa: B008
    item = record(gold)
    grader = Grader(task or emotion(), Dataset((item,), Path(".")), config(**changes), reader)
    return grader.grade([item] * len(completions), completions)


def said(thought: str, answer: str) -> str:
    return f"<think>{thought}</think><answer>{answer}</answer>"


THOUGHT = "He shouts. It is anger. There is joy, too."
"""One neutral sentence, one of anger, one of joy."""


@pytest.mark.parametrize(
    ("gold", "answer", "against", "expected"),
    [
        ("anger", "anger", "gold", 1 / 2),
        ("anger", "neutral", "gold", 1 / 2),  # ERV pays a wrong answer all the same
        ("anger", "neutral", "answer", 1 / 3),
        ("happiness", "anger", "answer", 1 / 2),  # happiness is what the verifier calls joy
        ("neutral", "anger", "both", (1 / 3 + 1 / 2) / 2),
    ],
)
def test_sentences_are_held_against_gold_or_answer(gold, answer, against, expected):
    [score] = grade(gold, said(THOUGHT, answer), against=against)
    assert score.parts["explanation"] == pytest.approx(expected)
    assert score.parts["evidence"] is None


def test_gated_a_wrong_verdict_earns_nothing():
    right, wrong = grade(
        "anger", said("It is anger.", "anger"), said("It is joy.", "happiness"), against="answer", gate=True
    )
    assert (right.parts["explanation"], wrong.parts["explanation"]) == (1.0, 0.0)


def test_what_is_no_answer_explains_nothing_and_costs_no_sentence():
    verifier = Words()
    broken, whole = grade("anger", "It is anger.", said("It is anger.", "anger"), reader=verifier, evidence=True)
    assert broken.fault is Fault.MISSING_BLOCK
    assert (broken.parts["explanation"], broken.parts["evidence"]) == (0.0, 0.0)
    assert whole.parts["explanation"] == 1.0
    assert verifier.batches == [["It is anger."]]


def test_a_batch_is_one_call():
    verifier = Words()
    grade("anger", said(THOUGHT, "anger"), said("Anger!", "anger"), reader=verifier)
    assert [len(batch) for batch in verifier.batches] == [4]


def test_blocks_are_read_one_by_one():
    """A block without a full stop must not run into the next."""
    verifier = Words()
    text = "<discriminate>negative: it is anger</discriminate><calibrate>there is joy</calibrate><answer>anger</answer>"
    [score] = grade("anger", text, task=emotion("dc"), reader=verifier)
    assert verifier.batches == [["it is anger", "there is joy"]]
    assert score.parts["explanation"] == 0.5


def test_an_answer_without_explanation_has_no_such_part():
    [score] = grade("anger", "<answer>anger</answer>", task=emotion("answer"), evidence=True)
    assert (score.parts["explanation"], score.parts["evidence"]) == (None, None)


def test_nothing_asked_nothing_scored():
    [score] = grade("anger", said(THOUGHT, "anger"), reader=None)
    assert (score.parts["explanation"], score.parts["evidence"], score.speaks_for) == (None, None, None)


@pytest.mark.parametrize(
    ("thought", "changes", "expected"),
    [
        ("It is anger", {"words": [6, 10]}, 3 / 6),
        ("It is anger, yes it surely is anger and so on", {"words": [1, 5]}, 5 / 11),
        ("anger hate rage it", {"emotion_words": 0.5}, 0.5 / 0.75),
        ("It is anger", {"coverage": True}, 0.0),  # the text is shown, and nothing is said of it
        ("The words are down, it is anger", {"coverage": True}, 1.0),
        ("anger, anger, anger, really", {"repeats": False}, 2 / 4),
    ],
)
def test_manner_takes_its_share(thought, changes, expected):
    [score] = grade("anger", said(thought, "anger"), **changes)
    assert score.parts["explanation"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("thought", "label"), [("It is joy.", "happiness"), ("So be it.", "neutral"), ("joy. anger. anger.", "anger")]
)
def test_what_an_explanation_speaks_for(thought: str, label: str):
    [score] = grade("anger", said(thought, "anger"))
    assert score.speaks_for == label


def test_intensities_are_read_as_valence(tmp_path):
    task = Studio(name="s", views=["text"], grammar="think", train=1, dev=0, test=0, conflict=None, seed=0)
    item = Record(
        uid="a", task="s", split="train", group="a", views={"text": "well"}, target=Scalar(1.5, -3.0, 3.0, 0.2)
    )
    grader = Grader(task, Dataset((item,), tmp_path), config(), Words())
    # joy alone is a valence of 1 where 1.5 of 3 is .5; joy and anger together are 0 and so neutral
    near, wrong, mixed = grader.grade(
        [item] * 3, [said("It is joy.", "1"), said("It is anger.", "1"), said("joy and anger", "1")]
    )
    assert [s.parts["explanation"] for s in (near, wrong, mixed)] == pytest.approx([0.5, 0.0, 0.0])
    assert [s.speaks_for for s in (near, wrong, mixed)] == ["positive", "negative", "neutral"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> tuple[Studio, Dataset]:
    task = Studio(
        name="s", views=["text", "audio", "video"], grammar="think", train=12, dev=0, test=0, conflict=None, seed=0
    )
    return task, task.dataset(tmp_path_factory.mktemp("studio"))


def test_claims_are_checked_against_the_rendered_clip(clips):
    task, data = clips
    grader = Grader(task, data, config(verifier=None, evidence=True), None)
    swap = {"up": "down", "down": "up", "flat": "up"}
    true = [caption(r) for r in data.records]
    false = [" ".join(swap.get(w.rstrip(","), w) + "," * w.endswith(",") for w in t.split()) for t in true]
    honest = grader.grade(data.records, [said(t, "0") for t in true])
    lying = grader.grade(data.records, [said(t, "0") for t in false])
    silent = grader.grade(data.records, [said("I simply know.", "0")] * len(data.records))
    assert np.mean([s.parts["evidence"] for s in honest]) > 0.9
    assert [s.parts["evidence"] for s in silent] == [0.0] * len(silent)
    assert np.mean([s.parts["evidence"] for s in lying]) < 0.1
    assert all(s.parts["explanation"] is None for s in honest)


def test_quoted_words_are_looked_up_in_the_transcript():
    item = record("anger", text="what a lovely day, not bad")
    grader = Grader(emotion(), Dataset((item,), Path(".")), config(verifier=None, evidence=True), None)
    right, absent = grader.grade([item] * 2, [said("'lovely' up", "anger"), said("'horrible' down", "anger")])
    assert (right.precision, absent.precision) == (1.0, 0.0)


def test_a_verifier_that_cannot_name_the_labels_is_refused():
    with pytest.raises(ConfigError, match=r"explanation.names: the verifier has no label \['happiness'\] .* of speech"):
        grade("anger", names={})
    task = Studio(name="s", views=["text"], grammar="think", train=1, dev=0, test=0, conflict=None, seed=0)
    item = Record(uid="a", task="s", split="train", group="a", views={"text": "well"}, target=Scalar(1.5, -3.0, 3.0))
    with pytest.raises(ConfigError, match=r"explanation.valence: no sign .* labels \['joy'\]"):
        Grader(task, Dataset((item,), Path(".")), config(valence={"anger": -1, "neutral": 0}), Words())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("against", "truth"),
        ("threshold", 1.0),
        ("most", 0),
        ("zone", -0.1),
        ("valence", {"joy": 2}),
        ("words", [5, 3]),
        ("emotion_words", 0.0),
        ("edge", -1.0),
    ],
)
def test_bad_settings_are_named(key: str, value):
    with pytest.raises(ConfigError, match=rf"explanation\.{key}: .*mend the config"):
        config(**{key: value})


class Jury:
    """A judge that finds a label where its name stands in the explanation, and cannot be heard where it says "crackle"."""

    def __init__(self, media: bool = False) -> None:
        self.cfg = SimpleNamespace(media=media)
        self.items: list[Item] = []

    def opinions(self, items: Sequence[Item]) -> list[Opinion]:
        self.items += items
        said = [next((label for label in i.labels if label in i.explanation), None) for i in items]
        failed = ["crackle" in i.explanation for i in items]
        return [
            Opinion(None, "Timeout") if f else Opinion(label, None if label else "off_list")
            for label, f in zip(said, failed, strict=True)
        ]


def judged(gold: str, *completions: str, jury: Jury | None = None, **changes) -> list:
    item = record(gold)
    data, judge = Dataset((item,), Path(".")), jury or Jury()
    grader = Grader(emotion(), data, config(verifier=None, judge=True, **changes), None, judge)  # type: ignore[arg-type]
    return grader.grade([item] * len(completions), completions)


def test_a_judge_reads_the_whole_explanation_and_never_the_answer():
    jury = Jury()
    right, wrong = judged(
        "anger", said("anger, plainly.", "anger"), said("anger.", "neutral"), jury=jury, against="answer"
    )
    assert (right.parts["explanation"], wrong.parts["explanation"]) == (1.0, 0.0)
    assert right.speaks_for == wrong.speaks_for == "anger"
    assert [i.explanation for i in jury.items] == ["anger, plainly.", "anger."]
    assert all(i.labels == SPACE.labels and i.clip == () for i in jury.items)


def test_a_judge_that_is_not_heard_leaves_the_part_open_and_one_that_finds_nothing_does_not():
    silent, off = judged("anger", said("crackle", "anger"), said("whatever", "anger"))
    assert (silent.parts["explanation"], silent.unheard, silent.speaks_for) == (None, True, None)
    assert (off.parts["explanation"], off.unheard, off.speaks_for) == (0.0, False, None)


def test_a_judge_may_be_shown_the_clip():
    jury = Jury(media=True)
    judged("anger", said("anger", "anger"), jury=jury)
    assert [part["type"] for part in jury.items[0].clip] == ["text", "text"]  # the view, and the question


def test_judge_and_verifier_exclude_each_other():
    with pytest.raises(
        ConfigError, match=r"explanation.judge: true, and explanation.verifier=words: one of them reads"
    ):
        config(judge=True)
