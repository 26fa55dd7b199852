"""Corpora of different scales, asked about on one: the question, labels and zone move, the metrics stay."""

from collections import Counter
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from tasks.dc import GRAMMARS, Answer, render
from tasks.record import Record
from tasks.sentiment.task import Sentiment
from tasks.target import Scalar

ROOT = Path(__file__).parents[2]
SCALES = {"vader_tweets": (-4.0, 4.0), "emobank": (1.0, 5.0), "mosi": (-3.0, 3.0), "sims": (-1.0, 1.0)}


def task(name: str, scale: list[float] | None) -> Sentiment:
    return instantiate(OmegaConf.merge(OmegaConf.load(ROOT / "conf" / "task" / f"{name}.yaml"), {"scale": scale}))


def scalar(record: Record) -> Scalar:
    assert isinstance(record.target, Scalar)
    return record.target


@pytest.mark.parametrize("name", SCALES)
def test_every_corpus_is_asked_about_on_the_stated_scale(name: str, data_from: Path, tmp_path: Path) -> None:
    there, here = task(name, [-4, 4]), task(name, None)
    stated, native = (t.dataset(tmp_path / str(i)).records for i, t in enumerate((there, here)))
    question = "How strong is the sentiment, from -4 (most negative) to 4 (most positive)?"
    assert {there.question(r) for r in stated} == {question}
    lo, hi = SCALES[name]
    for a, b in zip(stated, native, strict=True):
        assert (a.uid, a.split, a.views) == (b.uid, b.split, b.views)
        assert (scalar(a).lo, scalar(a).hi) == (-4, 4) and (scalar(b).lo, scalar(b).hi) == (lo, hi)
        assert scalar(a).x == pytest.approx(-4 + 8 * (scalar(b).x - lo) / (hi - lo), abs=1e-6)
        assert scalar(a).coarse() == scalar(b).coarse()
    assert Counter(scalar(r).coarse() for r in stated)["positive"] > 0


def test_a_label_and_its_zone_by_hand(data_from: Path, tmp_path: Path) -> None:
    records = {r.uid: scalar(r) for r in task("emobank", [-4, 4]).dataset(tmp_path).records}
    # 4.2 lies 1.2 of 2 above the middle of [1, 5], so 2.4 of 4; a zone of 0.25 becomes 0.5
    assert records["emobank-a2"] == Scalar(2.4, -4, 4, 0.5)
    records = {r.uid: scalar(r) for r in task("mosi", [-4, 4]).dataset(tmp_path / "mosi").records}
    assert records["mosi-q_q-2"] == Scalar(-2.933333, -4, 4, 0.0)  # -2.2 * 4 / 3


def test_the_edge_of_the_zone_stays_neutral_where_the_map_does_not_end(tmp_path: Path) -> None:
    mosi = task("mosi", [-4, 4])
    mosi.neutral = 0.2
    record = Record(
        uid="a", task="mosi", split="test", group="a", views={"text": "a"}, target=Scalar(0.2, -3, 3, 0.2)
    )  # 0.2 * 4 / 3 = 0.26666..., rounded up to 0.266667
    assert mosi._stated(record).target.coarse() == record.target.coarse() == "neutral"


def test_ratings_move_with_the_label(data_from: Path, tmp_path: Path) -> None:
    records = task("vader_tweets", [-1, 1]).dataset(tmp_path).records
    for record in records:
        ratings = [x for _, _, x in record.raters or () if isinstance(x, float)]
        assert scalar(record).x == pytest.approx(sum(ratings) / len(ratings), abs=0.005 / 4)


@pytest.mark.parametrize("name", SCALES)
def test_the_metrics_count_on_the_scale_of_the_corpus(name: str, data_from: Path, tmp_path: Path) -> None:
    there, here = task(name, [-4, 4]), task(name, None)
    stated, native = ([scalar(r) for r in t.dataset(tmp_path / str(i)).records] for i, t in enumerate((there, here)))
    lo, hi = SCALES[name]
    shares = [i / (len(native) - 1) for i in range(len(native))]
    said = [Scalar(-4 + 8 * s, -4, 4, t.neutral) for s, t in zip(shares, stated, strict=True)]
    same = [Scalar(lo + (hi - lo) * s, lo, hi, t.neutral) for s, t in zip(shares, native, strict=True)]
    assert there.metrics(stated, [None, *said[1:]]) == pytest.approx(here.metrics(native, [None, *same[1:]]), abs=2e-4)
    perfect = there.metrics(stated, stated)
    assert perfect["mae"] == 0 and perfect["polarity"] == 1


def test_an_answer_is_read_and_graded_on_the_stated_scale(data_from: Path, tmp_path: Path) -> None:
    there, here = task("emobank", [-4, 4]), task("emobank", None)
    there.grammar = here.grammar = GRAMMARS["answer"]
    stated = next(r for r in there.dataset(tmp_path / "a").records if r.uid == "emobank-a3")
    native = next(r for r in here.dataset(tmp_path / "b").records if r.uid == "emobank-a3")
    negative = "<answer>-2.4</answer>"  # 1.8 on [1, 5]
    assert here.score(native, negative).fault == "bad_answer", (
        "what a model taught on [-4, 4] says has no place in [1, 5]"
    )
    assert there.score(stated, negative).parts["calibrate"] == 1.0
    assert render(Answer(stated.target), there.grammar) == negative


def test_the_trivial_rule_answers_on_the_stated_scale(data_from: Path, tmp_path: Path) -> None:
    there, here = task("emobank", [-4, 4]), task("emobank", None)
    means = []
    for i, t in enumerate((there, here)):
        data = t.dataset(tmp_path / str(i))
        answers = t.baseline(data.split("train"), data.split("dev"))
        gold = [r.target for r in data.split("dev")]
        means.append(t.metrics(gold, answers)["mae"])
    assert means[0] == pytest.approx(means[1], abs=0.01)  # the mean is rounded to two decimals of either scale


def test_a_label_between_two_classes_comes_back_exactly(data_from: Path) -> None:
    # 0.5 is rounded to class 0; on [-4, 4] it is stated as 0.666667, and 0.50000025 would be rounded to class 1
    assert task("mosi", [-4, 4]).metrics([Scalar(0.666667, -4, 4)], [Scalar(0.0, -4, 4)])["acc7"] == 1.0
