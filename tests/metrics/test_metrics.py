"""Corpus metrics against hand-computed numbers, scikit-learn, and the class rules of MMSA."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from runtime.errors import ConfigError
from tasks.metrics.classification import classification_metrics, weighted_f1
from tasks.metrics.regression import regression_metrics
from tasks.metrics.sets import set_metrics

MOSI_KEYS = {"acc2_has0", "acc2_non0", "f1_has0", "f1_non0", "acc3", "acc5", "acc7", "mae", "corr", "polarity"}
SIMS_KEYS = {"acc2", "f1", "acc3", "acc5", "mae", "corr", "polarity"}


def mosi(gold, predicted, lo=-3.0, hi=3.0, neutral=0.2):
    return regression_metrics(gold, predicted, lo=lo, hi=hi, neutral=neutral, scheme="mosi")


def sims(gold, predicted, lo=-1.0, hi=1.0, neutral=0.1):
    return regression_metrics(gold, predicted, lo=lo, hi=hi, neutral=neutral, scheme="sims")


def test_mosi_metrics_of_six_items_by_hand():
    gold = [-2.4, -0.6, 0.0, 0.2, 1.5, 2.6]
    predicted = [-1.0, 0.4, 0.6, 0.0, 2.5, 3.0]
    m = mosi(gold, predicted)
    # >= 0:        gold - - + + + +   predicted - + + + + +          5 of 6
    assert m["acc2_has0"] == pytest.approx(5 / 6)
    # without gold 0, > 0: gold - - + + +   predicted - + - + +      3 of 5
    assert m["acc2_non0"] == pytest.approx(3 / 5)
    # rounded: gold -2 -1 0 0 2 3, predicted -1 0 1 0 2 3 (1.5 and 2.5 both round to 2: half to even)  3 of 6
    assert m["acc7"] == pytest.approx(3 / 6)
    # clipped to [-2, 2]: gold -2 -1 0 0 2 2, predicted -1 0 1 0 2 2  3 of 6
    assert m["acc5"] == pytest.approx(3 / 6)
    # clipped to [-1, 1]: gold -1 -1 0 0 1 1, predicted -1 0 1 0 1 1  4 of 6
    assert m["acc3"] == pytest.approx(4 / 6)
    # differences 1.4 1.0 0.6 0.2 1.0 0.4
    assert m["mae"] == pytest.approx(4.6 / 6)
    # sides: gold - - 0 0 + +, predicted - + + 0 + +                  4 of 6
    assert m["polarity"] == pytest.approx(4 / 6)
    # has0: negative TP 1, gold 2, predicted 1, F1 2/3; positive TP 4, gold 4, predicted 5, F1 8/9; (2 * 2/3 + 4 * 8/9) / 6
    assert m["f1_has0"] == pytest.approx((2 * 2 / 3 + 4 * 8 / 9) / 6)
    # non0: negative TP 1, gold 2, predicted 2, F1 1/2; positive TP 2, gold 3, predicted 3, F1 2/3
    assert m["f1_non0"] == pytest.approx((2 * 1 / 2 + 3 * 2 / 3) / 5)
    assert m["corr"] == pytest.approx(pearsonr(gold, predicted).statistic)
    assert m["unparseable"] == 0.0


def test_mosi_does_not_clip_before_mae_and_corr():
    m = mosi([3.0, -1.0, 0.0], [5.0, -1.0, 0.0])
    assert m["mae"] == pytest.approx(2 / 3)
    assert m["corr"] == pytest.approx(pearsonr([3, -1, 0], [5, -1, 0]).statistic)
    assert m["acc7"] == 1.0


def test_sims_bins_are_closed_on_the_right_and_zero_is_negative():
    gold = [-0.7, -0.1, 0.0, 0.1, 0.7, 1.0]
    shifted = [x - 1e-3 for x in gold]
    m = sims(gold, shifted)
    # a little below an edge is the same bin, everywhere
    assert m["acc2"] == m["acc3"] == m["acc5"] == m["f1"] == 1.0
    # a little above: bins of 5 change at -0.7 -0.1 0.1 0.7 (2 of 6 stay), of 3 at -0.1 0.1 (4 stay), of 2 at 0 (5 stay)
    m = sims(gold, [x + 1e-3 for x in gold])
    assert (m["acc5"], m["acc3"], m["acc2"]) == pytest.approx((2 / 6, 4 / 6, 5 / 6))


def test_sims_clips_before_everything():
    m = sims([1.0, -1.0, 0.5], [4.0, -2.0, 0.5])
    assert m["mae"] == 0.0
    assert m["corr"] == pytest.approx(1.0)


@given(st.lists(st.tuples(st.integers(-30, 30), st.integers(-30, 30)), min_size=2, max_size=30))
def test_mosi_agrees_with_the_formulas_of_mmsa(pairs):
    y, p = np.array(pairs).T / 10
    m = mosi(y.tolist(), p.tolist())
    for k in (3, 5, 7):
        half = k // 2
        truth, guess = np.round(np.clip(y, -half, half)), np.round(np.clip(p, -half, half))
        assert m[f"acc{k}"] == pytest.approx(np.sum(truth == guess) / len(y))
    assert m["acc2_has0"] == pytest.approx(accuracy_score(y >= 0, p >= 0))
    assert m["f1_has0"] == pytest.approx(f1_score(y >= 0, p >= 0, average="weighted", zero_division=0))
    if (y != 0).any():
        truth, guess = y[y != 0] > 0, p[y != 0] > 0
        assert m["acc2_non0"] == pytest.approx(accuracy_score(truth, guess))
        assert m["f1_non0"] == pytest.approx(f1_score(truth, guess, average="weighted", zero_division=0))
    if np.ptp(y) and np.ptp(p):
        assert m["corr"] == pytest.approx(pearsonr(y, p).statistic)


@given(st.lists(st.tuples(st.integers(-10, 10), st.integers(-10, 10)), min_size=2, max_size=30))
def test_sims_agrees_with_the_formulas_of_mmsa(pairs):
    y, p = np.array(pairs).T / 10
    m = sims(y.tolist(), p.tolist())
    for k, edges in {2: [-1.01, 0, 1.01], 3: [-1.01, -0.1, 0.1, 1.01], 5: [-1.01, -0.7, -0.1, 0.1, 0.7, 1.01]}.items():
        truth, guess = y.copy(), p.copy()
        for i in range(k):
            truth[(y > edges[i]) & (y <= edges[i + 1])] = i
            guess[(p > edges[i]) & (p <= edges[i + 1])] = i
        assert m[f"acc{k}"] == pytest.approx(np.mean(truth == guess))
        if k == 2:
            assert m["f1"] == pytest.approx(f1_score(truth, guess, average="weighted", zero_division=0))


@pytest.mark.parametrize("metrics", [mosi, sims])
def test_class_accuracies_do_not_depend_on_the_scale(metrics):
    rng = np.random.default_rng(0)
    half = 3 if metrics is mosi else 1
    gold, predicted = (rng.integers(-10, 11, 40) / 10 * half for _ in range(2))
    here = metrics(gold.tolist(), predicted.tolist())
    # the same numbers as 1 to 9: x -> 5 + 4 x / half; MAE grows by 4 / half, the neutral zone with it
    there = metrics(
        (5 + 4 / half * gold).tolist(),
        (5 + 4 / half * predicted).tolist(),
        lo=1,
        hi=9,
        neutral=(0.2 if metrics is mosi else 0.1) * 4 / half,
    )
    assert there.pop("mae") == pytest.approx(here.pop("mae") * 4 / half)
    assert there == pytest.approx(here)


@pytest.mark.parametrize("metrics, keys", [(mosi, MOSI_KEYS), (sims, SIMS_KEYS)])
@pytest.mark.parametrize("lo, hi", [(-3, 3), (-1, 1), (1, 5), (0, 0.01), (-0.1, 0.1)])
@pytest.mark.parametrize("where", [0.0, 0.1, 0.45, 0.5, 0.55, 0.9, 1.0])
def test_an_unparseable_answer_is_wrong_in_every_metric(metrics, keys, lo, hi, where):
    gold = lo + where * (hi - lo)
    m = metrics([gold], [None], lo=lo, hi=hi)
    assert set(m) == keys | {"unparseable"}
    assert m.pop("unparseable") == 1.0
    # no answer on the scale is farther away
    assert m.pop("mae") == pytest.approx(max(gold - lo, hi - gold))
    assert m == dict.fromkeys(m, 0.0)


@pytest.mark.parametrize("metrics", [mosi, sims])
def test_an_unparseable_answer_is_never_better_than_an_answer(metrics):
    rng = np.random.default_rng(1)
    gold = rng.integers(-10, 11, 50) / 10
    predicted = gold.tolist()
    silent = [None if i % 5 == 0 else p for i, p in enumerate(predicted)]
    whole, part = metrics(gold.tolist(), predicted), metrics(gold.tolist(), silent)
    assert part["unparseable"] == pytest.approx(0.2)
    assert part["mae"] > whole["mae"]
    assert all(part[k] < whole[k] for k in whole if k not in ("mae", "unparseable"))


def test_correlation_with_a_constant_is_reported_as_zero():
    assert mosi([1.0, 2.0], [0.5, 0.5])["corr"] == 0.0
    assert mosi([1.0, 1.0], [0.5, 0.7])["corr"] == 0.0


def test_no_gold_beside_zero_gives_zero_for_the_metrics_without_zeros():
    m = mosi([0.0, 0.0], [1.0, 0.0])
    assert (m["acc2_non0"], m["f1_non0"]) == (0.0, 0.0)


def test_an_unknown_scheme_is_refused():
    with pytest.raises(ConfigError, match=r"scheme: one of \['mosi', 'sims'\]; got 'mosei'; mend the config"):
        regression_metrics([0.0], [0.0], lo=-1, hi=1, neutral=0.1, scheme="mosei")


def test_classification_by_hand():
    gold = ["joy", "joy", "joy", "anger", "anger", "fear"]
    predicted = ["joy", "joy", "anger", "anger", None, "sadness"]
    m = classification_metrics(gold, predicted, ["anger", "fear", "joy", "sadness"])
    # recall: joy 2/3, anger 1/2, fear 0; F1: joy 4/5, anger 2/4, fear 0; sadness never occurs in gold
    assert m["war"] == pytest.approx(3 / 6)
    assert m["uar"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert m["macro_f1"] == pytest.approx((4 / 5 + 1 / 2 + 0) / 3)
    assert m["weighted_f1"] == pytest.approx((3 * 4 / 5 + 2 * 1 / 2 + 0) / 6)
    assert m["unparseable"] == pytest.approx(1 / 6)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")), min_size=1, max_size=40))
def test_classification_agrees_with_scikit_learn(pairs):
    gold, predicted = map(list, zip(*pairs, strict=True))
    m = classification_metrics(gold, predicted, "abcd")
    present = sorted(set(gold))
    assert m["war"] == pytest.approx(accuracy_score(gold, predicted))
    assert m["uar"] == pytest.approx(np.mean([np.mean([p == x for g, p in pairs if g == x]) for x in present]))
    if set(predicted) <= set(gold) and len(present) > 1:
        assert m["uar"] == pytest.approx(balanced_accuracy_score(gold, predicted))
    assert m["macro_f1"] == pytest.approx(f1_score(gold, predicted, labels=present, average="macro", zero_division=0))
    assert m["weighted_f1"] == pytest.approx(f1_score(gold, predicted, average="weighted", zero_division=0))


def test_only_unparseable_answers_score_zero_everywhere():
    m = classification_metrics(["a", "b"], [None, None], "ab")
    assert m.pop("unparseable") == 1.0
    assert set(m.values()) == {0.0}


def test_a_label_outside_the_space_is_refused():
    with pytest.raises(KeyError, match="rage"):
        classification_metrics(["joy"], ["rage"], ["joy", "anger"])


def test_weighted_f1_of_nothing_is_zero():
    assert weighted_f1(np.array([], dtype=int), np.array([], dtype=int), 2) == 0.0


def test_sets_by_hand():
    m = set_metrics([{1, 2}, {3}, set()], [{2, 4}, None, set()])
    # hits 1, claimed 2, wanted 3; per item F1 1/2, 0 (unreadable), 1 (both empty)
    assert m == pytest.approx(
        {"precision": 1 / 2, "recall": 1 / 3, "f1": 2 / 5, "mean_f1": 1.5 / 3, "exact": 1 / 3, "unparseable": 1 / 3}
    )


def test_an_unreadable_set_does_not_agree_with_an_empty_one():
    m = set_metrics([set()], [None])
    assert m.pop("unparseable") == 1.0
    assert set(m.values()) == {0.0}
