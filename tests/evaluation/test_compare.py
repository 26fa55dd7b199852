"""Arms over seeds: numbers that scipy and a hand give, slices, the race for tokens, and every refusal."""

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from scipy.stats import ttest_ind, ttest_rel

from evaluation.compare.__main__ import main
from evaluation.compare.contrast import compare
from evaluation.compare.race import race
from evaluation.compare.runs import read_arm, read_run
from evaluation.compare.tables import markdown, race_table, results
from evaluation.stats import holm
from runtime.errors import ConfigError, RecordError, StageError, UndertoneError
from runtime.files import read_jsonl, write_json, write_jsonl
from tasks.record import Record, read_records, write_records
from tasks.target import Scalar

ROOT = Path(__file__).parents[2]
GOLD = [2.0, -1.0, 1.0, -2.0, 0.5, -0.5, 1.5, -1.5]
"""Two items of each of four speakers; the second of each is a conflict clip."""


def records(gold=GOLD) -> list[Record]:
    return [
        Record(
            uid=f"item-{i}",
            task="studio",
            split="test",
            group=f"speaker-{i // 2}",
            views={"text": "so it goes"},
            target=Scalar(x, -3, 3, 0.2),
            meta={"conflict": bool(i % 2), "scene": f"s{i}"},
        )
        for i, x in enumerate(gold)
    ]


def write_run(folder: Path, offset: float, seed: int, *, stage: str = "rl", tokens=None, curve=(), gold=GOLD) -> Path:
    """A run whose answers are gold plus `offset`, so that its mae is `offset` on whatever items are drawn."""
    task = OmegaConf.load(ROOT / "conf" / "task" / "studio.yaml")
    (folder / "data").mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create({"task": task}), folder / "config.yaml")
    write_records(folder / "data" / "records.jsonl", records(gold))
    rows = [{"uid": r.uid, "answer": str(round(x + offset, 3))} for r, x in zip(records(gold), gold, strict=True)]
    write_jsonl(folder / "eval" / stage / "predictions.jsonl", rows)
    write_json(folder / "eval" / stage / "stage.json", {"made_from": {"settings": {"seed": seed}}, "result": {}})
    if tokens is not None or curve:
        log = [{"step": k, "tokens/generated": t, "dev/polarity": v} for k, (t, v) in enumerate(curve, 1)]
        end = [{"tokens/generated": tokens / 2}, {"tokens/generated": tokens}, {"loss": 0.1}] if tokens else []
        write_jsonl(
            folder / stage / "metrics.jsonl", log + [{"step": len(log) + k} | row for k, row in enumerate(end, 1)]
        )
    return folder


PLAIN, HINTED = (0.9, 0.7, 1.0), (0.6, 0.5, 0.4)


@pytest.fixture
def runs(tmp_path):
    """Two arms of three seeds each."""
    for arm, offsets in (("plain", PLAIN), ("hinted", HINTED)):
        for seed, offset in enumerate(offsets):
            write_run(tmp_path / f"{arm}-{seed}", offset, seed, tokens=1000 * (seed + 1))
    return tmp_path


def arms(folder: Path, *names: str):
    return [read_arm(name, str(folder / f"{name}-*")) for name in names]


def test_means_differences_and_p_values_are_those_of_scipy(runs):
    found = compare(arms(runs, "plain", "hinted"), ["mae"], resamples=20)
    assert (found.items, found.unit, found.units) == (8, "group", 4)
    plain, hinted = found.arms
    assert plain.metrics["mae"].value == pytest.approx(sum(PLAIN) / 3)
    assert hinted.metrics["mae"].value == pytest.approx(0.5)
    assert (plain.seeds, plain.tokens) == ((0, 1, 2), 2000)
    [contrast] = found.contrasts
    theirs = ttest_rel(HINTED, PLAIN)
    assert contrast.paired
    assert contrast.difference.value == pytest.approx(0.5 - sum(PLAIN) / 3)
    assert (contrast.difference.p, contrast.holm) == pytest.approx((theirs.pvalue, theirs.pvalue))
    ends = theirs.confidence_interval(0.95)
    assert (contrast.difference.lo, contrast.difference.hi) == pytest.approx((ends.low, ends.high))


def test_other_seeds_are_not_paired(runs):
    for seed, offset in enumerate(HINTED):
        write_run(runs / f"other-{seed}", offset, seed + 5)
    [contrast] = compare(arms(runs, "plain", "other"), ["mae"], resamples=20).contrasts
    assert not contrast.paired
    assert contrast.difference.p == pytest.approx(ttest_ind(HINTED, PLAIN, equal_var=False).pvalue)


def test_holm_runs_over_all_arms_and_metrics(runs):
    write_run(runs / "third-0", 0.3, 0)
    found = compare(arms(runs, "plain", "hinted", "third"), ["mae", "polarity", "corr"], resamples=50)
    assert [(c.arm, c.metric) for c in found.contrasts] == [
        (arm, metric) for arm in ("hinted", "third") for metric in ("mae", "polarity", "corr")
    ]
    assert [c.holm for c in found.contrasts] == holm([c.difference.p for c in found.contrasts])
    # gold + .9, .7 and 1.0: -0.5 is wrong in all, -1 in the first and the last: 6, 7 and 6 of 8; unlike mae it has spread
    polarity = found.arms[0].metrics["polarity"]
    assert polarity.value == pytest.approx((6 + 7 + 6) / 24)
    assert polarity.lo < polarity.value < polarity.hi


def test_explanations_are_compared_where_all_runs_have_read_them(runs):
    with pytest.raises(ConfigError, match=r"metrics: of studio: .*; got epc, evidence_precision"):
        compare(arms(runs, "plain", "hinted"), ["epc", "evidence_precision"], resamples=5)
    for arm in ("plain", "hinted"):
        for seed in range(3):
            path = runs / f"{arm}-{seed}" / "eval" / "rl" / "predictions.jsonl"
            rows = read_jsonl(path)
            # every explanation says positive; gold plus .4 to 1.0 is positive for 4 to 6 of the 8 answers
            write_jsonl(
                path, [row | {"speaks_for": "positive", "evidence_precision": 0.5 + 0.1 * seed} for row in rows]
            )
    found = compare(arms(runs, "plain", "hinted"), ["epc", "eea", "evidence_precision"], resamples=5)
    plain, hinted = found.arms
    # answers above .2: gold plus .9, .7, 1.0 -> 5, 4, 5 of 8 (-.5 + .7 is on the edge); plus .6, .5, .4 -> 4 each
    assert plain.metrics["epc"].value == pytest.approx((5 + 4 + 5) / 24)
    assert hinted.metrics["epc"].value == pytest.approx(4 / 8)
    assert plain.metrics["eea"].value == hinted.metrics["eea"].value == pytest.approx(4 / 8)
    assert plain.metrics["evidence_precision"].value == pytest.approx(0.6)


def test_the_bootstrap_seed_decides_the_result(runs):
    a, b, c = (compare(arms(runs, "plain", "hinted"), ["polarity"], resamples=30, seed=s) for s in (1, 1, 2))
    assert a == b != c


def test_a_slice_holds_the_items_whose_meta_says_so(runs):
    found = compare(arms(runs, "plain", "hinted"), ["polarity", "mae"], where=("conflict", True), resamples=20)
    assert (found.items, found.units) == (4, 4)
    assert found.arms[0].metrics["polarity"].value == pytest.approx((2 + 3 + 2) / 12)
    other = compare(arms(runs, "plain", "hinted"), ["polarity"], where=("conflict", False), resamples=20)
    assert other.arms[0].metrics["polarity"].value == 1.0


def test_an_answer_that_could_not_be_read_is_wrong(runs):
    path = runs / "plain-0" / "eval" / "rl" / "predictions.jsonl"
    rows = read_jsonl(path)
    write_jsonl(path, [rows[0] | {"answer": None}, rows[1] | {"answer": "99"}, *rows[2:]])
    found = compare(arms(runs, "plain", "hinted"), ["unparseable"], resamples=20)
    assert found.arms[0].metrics["unparseable"].value == pytest.approx(2 / 24)


def test_what_a_run_folder_stands_for(runs, monkeypatch):
    both = write_run(write_run(runs / "both", 0.1, 4, stage="sft"), 0.2, 4, tokens=7)
    assert read_run(both).folder == both / "eval" / "rl"
    assert read_run(both / "eval" / "sft").answers["item-0"] == Scalar(2.1, -3, 3, 0.2)
    assert read_run(both).tokens == 7
    assert read_run(both / "eval" / "sft").tokens is None
    only = write_run(runs / "only", 0.1, 4, stage="sft")
    assert read_run(only).folder == only / "eval" / "sft"
    baseline = write_run(runs / "baseline", 0.1, 4, stage="regression")
    assert read_run(baseline / "eval" / "regression").seed == 4
    monkeypatch.chdir(baseline / "eval")
    assert read_run(Path("regression")).seed == 4
    (baseline / "eval" / "regression" / "stage.json").unlink()
    with pytest.raises(StageError, match=r"regression/stage.json: there is no such file"):
        read_run(baseline / "eval" / "regression")


def test_tokens_are_unknown_unless_every_run_says(runs):
    (runs / "hinted-1" / "rl" / "metrics.jsonl").unlink()
    found = compare(arms(runs, "plain", "hinted"), ["mae"], resamples=5)
    assert [arm.tokens for arm in found.arms] == [2000, None]


def test_the_table_by_hand(runs):
    for seed in range(2):
        write_run(runs / f"worse-{seed}", 1.0, seed + 7)
    write_run(runs / "a|b-0", 0.5, 0)
    table = markdown(results(compare([*arms(runs, "worse", "a|b")], ["mae", "unparseable"], resamples=9)))
    assert table.splitlines() == [
        "8 items. Means over seeds, 95 % intervals over seeds and 4 groups (9 bootstrap samples); Holm over a family of 2.",
        "",
        "One seed: a|b. What another seed would change there is not in the intervals.",
        "",
        "| arm | seeds | generated tokens | mae ↓ | unparseable ↓ |",
        "| :-- | --: | --: | --: | --: |",
        "| worse (reference) | 2 | unknown | 1.000 [1.000, 1.000] | 0.000 [0.000, 0.000] |",
        "| a/b | 1 | unknown | 0.500 [0.500, 0.500] | 0.000 [0.000, 0.000] |",
        "",
        "| arm | metric | minus worse | p | p (Holm) | seeds |",
        "| :-- | --: | --: | --: | --: | --: |",
        "| a/b | mae | -0.500 [-0.500, -0.500] | < 0.001 | < 0.001 | independent |",
        "| a/b | unparseable | +0.000 [+0.000, +0.000] | 1.000 | 1.000 | independent |",
    ]
    sliced = markdown(results(compare(arms(runs, "plain", "hinted"), ["mae"], where=("conflict", True), resamples=9)))
    assert sliced.startswith("4 items with conflict = true. Means")
    assert "One seed" not in sliced
    assert "| plain (reference) | 3 | 2,000 | 0.867 [" in sliced


# ---- the race


def with_curves(folder: Path, **curves: list[list[tuple[float, float]]]):
    for name, of_seeds in curves.items():
        for seed, curve in enumerate(of_seeds):
            write_run(folder / f"{name}-{seed}", 0.5, seed, curve=curve)
    return arms(folder, *curves)


def test_the_race_by_hand(tmp_path):
    # trailing means of 3: plain .2 .3 .4 .5; quick (mean of two seeds) .4 .5 .5; slow .1 .2 .3
    found = race(
        with_curves(
            tmp_path,
            plain=[[(100, 0.1), (200, 0.2), (300, 0.3), (400, 0.4), (500, 0.5), (600, 0.6)]],
            quick=[
                [(90, 0.3), (190, 0.5), (290, 0.7), (390, 0.6), (490, 0.5)],
                [(110, 0.1), (210, 0.3), (310, 0.5), (410, 0.4), (510, 0.3), (610, 0.0)],
            ],
            slow=[[(100, 0.0), (200, 0.1), (300, 0.2), (400, 0.3), (500, 0.4)]],
        ),
        "dev/polarity",
    )
    assert found.level == pytest.approx(0.5)
    plain, quick, slow = found.arms
    assert (plain.budget, plain.tokens, plain.reached, plain.seeds) == (600, 600, 1, 1)
    assert (quick.budget, quick.tokens, quick.reached, quick.seeds) == (500, 400, 1, 2)
    assert (slow.budget, slow.tokens, slow.reached) == (500, None, 0)
    assert markdown([race_table(found)]).splitlines() == [
        "Generated tokens until dev/polarity reached 0.500, where plain ended; mean over seeds, trailing mean of 3 "
        "evaluations.",
        "",
        "| arm | generated tokens | until reached | share of plain | seeds that reach it |",
        "| :-- | --: | --: | --: | --: |",
        "| plain | 600 | 600 | 1.00 | 1 of 1 |",
        "| quick | 500 | 400 | 0.67 | 1 of 2 |",
        "| slow | 500 | not reached | - | 0 of 1 |",
    ]


def test_a_lower_error_wins_the_race(tmp_path):
    for name, values in {"plain": (0.9, 0.8, 0.7), "better": (0.6, 0.5, 0.4)}.items():
        write_run(tmp_path / f"{name}-0", 0.5, 0)
        rows = [{"step": k, "tokens/generated": 100 * k, "dev/mae": v} for k, v in enumerate(values, 1)]
        write_jsonl(tmp_path / f"{name}-0" / "rl" / "metrics.jsonl", rows)
    assert [arm.tokens for arm in race(arms(tmp_path, "plain", "better"), "dev/mae").arms] == [300, 300]
    assert [arm.tokens for arm in race(arms(tmp_path, "better", "plain"), "dev/mae").arms] == [300, None]


def look(folder: Path, step: int, right: int) -> None:
    """Dev answers of a run: gold for the first `right` items of each kind, and what cannot be read for the others."""
    rows = [{"uid": f"item-{i}", "answer": str(x) if i // 2 < right else None} for i, x in enumerate(GOLD)]
    for row in rows[::2]:  # without a conflict nothing can be read
        row["answer"] = None
    write_jsonl(folder / "rl" / "dev" / f"step_{step:06}.jsonl", rows)


def test_the_race_on_some_dev_records_counts_their_answers(tmp_path):
    # the logged curves are flat; of the four items with a conflict 1, 2, 3 are right, or 3, 3, 4
    for name, right in {"plain": (1, 2, 3), "quick": (3, 3, 4)}.items():
        with_curves(tmp_path, **{name: [[(100, 0.5), (200, 0.5), (300, 0.5)]]})
        for step, n in enumerate(right, 1):
            look(tmp_path / f"{name}-0", step, n)
    found = race(arms(tmp_path, "plain", "quick"), "dev/polarity", ("conflict", True))
    assert found.level == pytest.approx((0.25 + 0.5 + 0.75) / 3)
    assert [arm.tokens for arm in found.arms] == [300, 300]
    assert race(arms(tmp_path, "plain", "quick"), "dev/polarity", ("conflict", False)).level == 0
    with pytest.raises(ConfigError, match=r"--curve reward --where conflict=...: only curves dev/METRIC can be sliced"):
        race(arms(tmp_path, "plain", "quick"), "reward", ("conflict", True))
    with pytest.raises(StageError, match="name a key that was logged"):
        race(arms(tmp_path, "plain", "quick"), "dev/polarty", ("conflict", True))
    for path in (tmp_path / "plain-0" / "rl" / "dev").iterdir():
        path.unlink()
    with pytest.raises(
        StageError, match=r"in its metrics\.jsonl and answers of such records in dev/ for every seed; name"
    ):
        race(arms(tmp_path, "plain", "quick"), "dev/polarity", ("conflict", True))


def test_an_arm_without_a_curve_is_unknown_and_a_reference_without_one_is_refused(runs):
    found = with_curves(runs, short=[[(100, 0.3), (200, 0.5)]])
    plain = arms(runs, "plain")
    shown = race([*found, *plain], "dev/polarity")
    assert shown.level == pytest.approx(0.4)  # two evaluations: the mean of both
    assert "| plain | unknown | unknown | - | - |" in markdown([race_table(shown)])
    message = r"plain: no step of .*plain-0/eval/rl has both dev/polarity and tokens/generated .*; name a key that was"
    with pytest.raises(StageError, match=message):
        race([*plain, *found], "dev/polarity")


# ---- refusals


def other_items(folder: Path) -> None:
    path = folder / "hinted-2" / "eval" / "rl" / "predictions.jsonl"
    write_jsonl(path, read_jsonl(path)[:-1])


def other_gold(folder: Path) -> None:
    write_run(folder / "hinted-2", 0.5, 2, gold=[*GOLD[:-1], -1.4])


def other_group(folder: Path) -> None:
    path = folder / "hinted-2" / "data" / "records.jsonl"
    path.write_text(path.read_text().replace("speaker-3", "speaker-9"))


def strange_item(folder: Path) -> None:
    path = folder / "hinted-2" / "data" / "records.jsonl"
    write_records(path, read_records(path)[:-1])


def cut_off(folder: Path) -> None:
    write_json(folder / "hinted-2" / "eval" / "rl" / "stage.json", {"made_from": {"settings": {"seed": 2}}})


def no_evaluation(folder: Path) -> None:
    (folder / "hinted-2" / "eval" / "rl").rename(folder / "hinted-2" / "eval" / "init")


def missing(name: str):
    return lambda folder: (folder / "hinted-2" / name).unlink()


@pytest.mark.parametrize(
    "spoil, error, message",
    [
        (other_items, RecordError, r"hinted-2/eval/rl \(hinted\) and .*plain-0/eval/rl were evaluated on different items: "
         r"7 and 8 of them, and 'item-7' is in one only; evaluate both on one split of the same records"),
        (other_gold, RecordError, r"hinted-2/eval/rl \(hinted\) and .*plain-0/eval/rl have different gold or groups: "
         r"'item-7' is \(.*-1.4.*\) and \(.*-1.5.*\); evaluate both on the same records"),
        (other_group, RecordError, r"'item-6' is \(.*'speaker-9'\) and \(.*'speaker-3'\); evaluate both"),
        (strange_item, RecordError, r"predictions.jsonl: no record of .*records.jsonl has the uid 'item-7'; run the stage "),
        (cut_off, StageError, r"hinted-2/eval/rl/stage.json: this evaluation was cut off; run it again, or leave it out"),
        (no_evaluation, StageError, r"hinted-2: neither an evaluation nor a run folder with eval/rl or eval/sft; below "
         r"eval/ it has init; run `python -m evaluation` there, or name one of these"),
        *[
            (missing(name), StageError, rf"{name}: there is no such file; evaluate the run anew, or leave it out")
            for name in ("config.yaml", "data/records.jsonl", "eval/rl/predictions.jsonl", "eval/rl/stage.json")
        ],
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(runs, spoil, error, message):
    spoil(runs)
    with pytest.raises(error, match=message):
        compare(arms(runs, "plain", "hinted"), ["mae"], resamples=5)


@pytest.mark.parametrize(
    "words, message",
    [
        (["plain={}/plain-*"], "arms: two or more with different names; got plain; name another arm"),
        (["a={}/plain-*", "a={}/hinted-*"], "arms: two or more with different names; got a, a; name another arm"),
        (["a={}/plain-*", "hinted"], "'hinted': write ARM=GLOB"),
        (["a={}/plain-*", "b={}/none-*"], r"b: no folder matches '.*none-\*'; mend the pattern, or finish a run of this"),
        (["a={}/plain-*", "b={}/*-1"], "b: .*plain-1/eval/rl and .*hinted-1/eval/rl both have seed 1; an arm takes one run "
         "of each seed; narrow the pattern, or run one of them with another seed"),
        (["--metrics=mae,uar"], "metrics: of studio: acc2_has0, .*, unparseable; got uar; mend the command"),
        (["--where=conflict"], "'conflict': write --where KEY=VALUE"),
        (["--where=level=1"], "where: no item has 'level' in its meta; it has conflict, scene; mend it"),
        (["--where=conflict=maybe"], 'where: 0 items have conflict="maybe", 2 or more are needed; values are false, true; '),
        (["--where=scene=s1"], 'where: 1 items have scene="s1", 2 or more are needed; values are "s0", "s1"'),
        (["--resamples=1"], "resamples 2 or more, seed 0 or more; got --resamples 1 --seed 0; mend the command"),
        (["--seed=-1"], "got --resamples 1000 --seed -1; mend the command"),
    ],
)  # fmt: skip
def test_arguments_that_make_no_sense_are_refused(runs, words, message):
    given = [word.format(runs) for word in words]
    if given[0].startswith("--"):
        given += [f"plain={runs}/plain-*", f"hinted={runs}/hinted-*"]
    if not given[0].startswith("--metrics"):
        given.append("--metrics=mae")
    with pytest.raises(UndertoneError, match=message):
        main(given)


def test_one_item_alone_and_no_metric_are_refused(tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / f"{name}-0", 0.5, 0, gold=[1.0])
    with pytest.raises(
        RecordError, match="compare: 1 items were evaluated, 2 or more are needed; evaluate a larger split"
    ):
        compare(arms(tmp_path, "a", "b"), ["mae"])
    for name in ("a", "b"):
        write_run(tmp_path / f"{name}-0", 0.5, 0)
    with pytest.raises(ConfigError, match="got none; mend the command"):
        compare(arms(tmp_path, "a", "b"), [])


def test_the_command_prints_tables_and_ends_with_one_line_on_an_error(tmp_path):
    with_curves(tmp_path, plain=[[(100, 0.3), (200, 0.5)]], hinted=[[(100, 0.5), (200, 0.5)]])
    for name, right in {"plain": (1, 2), "hinted": (2, 3)}.items():
        for step, n in enumerate(right, 1):
            look(tmp_path / f"{name}-0", step, n)
    command = [sys.executable, "-m", "evaluation.compare", f"plain={tmp_path}/plain-*", "--metrics", "mae,polarity"]
    more = [
        f"hinted={tmp_path}/hinted-0/eval/rl",
        "--where",
        "conflict=true",
        "--curve",
        "dev/polarity",
        "--resamples=9",
    ]
    done = subprocess.run([*command, *more], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("4 items with conflict = true. ")
    assert "| hinted | polarity | +0.000 [+0.000, +0.000] | 1.000 | 1.000 | paired |" in done.stdout
    assert "Generated tokens until dev/polarity with conflict = true reached 0.375, where plain ended" in done.stdout
    assert "| hinted | 200 | 200 | 1.00 | 1 of 1 |" in done.stdout
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: arms: two or more with different names; got plain; name another arm\n"
