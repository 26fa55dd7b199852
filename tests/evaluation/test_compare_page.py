"""Slices, item-by-item counts, sweeps, LaTeX, and the page that a person compares runs on."""

import shutil
from pathlib import Path

import pytest
from chromium import needs_chromium, opened
from omegaconf import OmegaConf
from scipy.stats import binomtest
from test_compare import GOLD, write_run

from evaluation.compare.__main__ import main
from evaluation.compare.contrast import compare
from evaluation.compare.runs import arms_of_sweep, read_arm, read_run
from evaluation.compare.slices import applicable, slice_by
from evaluation.compare.tables import latex, slice_table
from evaluation.compare.versus import majority, versus
from runtime.errors import ConfigError, StageError
from runtime.files import read_jsonl, write_jsonl
from tasks.record import read_records

CURVE = [(100, 0.5), (200, 0.6), (300, 0.7), (400, 0.8)]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two arms of three seeds; `wild` answers .9 too much, and so calls -1 neutral and -.5 positive."""
    for arm, offset in (("calm", 0.1), ("wild", 0.9)):
        for seed in range(3):
            folder = write_run(tmp_path / f"{arm}-{seed}", offset + 0.01 * seed, seed, curve=CURVE)
            _complete(folder)
    return tmp_path


def _complete(folder: Path) -> None:
    """Rows as an evaluation writes them, with what was said."""
    path = folder / "eval" / "rl" / "predictions.jsonl"
    rows = []
    for row, gold in zip(read_jsonl(path), GOLD, strict=True):
        x = float(row["answer"])
        side = "neutral" if abs(x) <= 0.2 else "positive" if x > 0 else "negative"
        right = side == ("positive" if gold > 0 else "negative")
        text = f"<discriminate>{side}: so</discriminate><calibrate>so</calibrate><answer>{row['answer']}</answer>"
        parts = {"discriminate": float(right), "agreement": 1.0}
        rows.append(row | {"completion": text, "fault": None, "parts": parts})
    write_jsonl(path, rows)


def arms(folder: Path):
    return [read_arm(name, str(folder / f"{name}-*")) for name in ("calm", "wild")]


def test_slices_by_hand(runs):
    found = arms(runs)
    assert applicable(found) == ["conflict", "scene", "group", "bin", "difficulty"]
    by_conflict = slice_by("conflict", found, ["mae"])
    assert [(p.value, p.items) for p in by_conflict.parts] == [("false", 4), ("true", 4)]
    for part in by_conflict.parts:
        assert [a.metrics["mae"].value for a in part.arms] == pytest.approx([0.11, 0.91])
    assert by_conflict.left_out == 0
    speakers = slice_by("group", found, ["mae"])
    assert [p.value for p in speakers.parts] == ["speaker-0", "speaker-1", "speaker-2", "speaker-3"]
    # whole numbers in order; what one item alone has is left out (rounding is to even: -0.5 and 0.5 are both 0)
    bins = slice_by("bin", found, ["mae"])
    assert [(p.value, p.items) for p in bins.parts] == [("-2", 2), ("+0", 2), ("+2", 2)]
    assert bins.left_out == 2
    assert "2 more parts are smaller" in slice_table(bins).notes[0]


def test_difficulty_is_decided_by_all_arms_together(runs):
    parts = {p.value.partition(":")[0]: p.items for p in slice_by("difficulty", arms(runs), ["mae"]).parts}
    assert parts == {"easy": 6, "middle": 2}  # half of all runs are right on two items


def test_a_slice_that_does_not_exist_is_refused(runs):
    with pytest.raises(
        ConfigError, match=r"slices: missing, group, bin, difficulty, or a key of meta \(conflict, scene\); got 'x'"
    ):
        slice_by("x", arms(runs), ["mae"])


def test_items_are_counted_by_the_majority_of_seeds(runs):
    calm, wild = arms(runs)
    right = majority(calm), majority(wild)
    only_calm = sum(a and not b for a, b in zip(*(r.values() for r in right), strict=True))
    only_wild = sum(b and not a for a, b in zip(*(r.values() for r in right), strict=True))
    [found] = versus([calm, wild])
    assert (found.arm, found.only_reference, found.only_arm) == ("wild", only_calm, only_wild) == ("wild", 2, 0)
    assert found.p == pytest.approx(binomtest(0, 2).pvalue) == 0.5


def test_latex_is_a_table_for_a_paper(runs):
    text = latex(compare(arms(runs), ["mae", "polarity"], resamples=20))
    assert text.splitlines()[1] == r"\begin{tabular}{lrr}"
    assert r" & mae $\downarrow$ & polarity $\uparrow$ \\" in text
    assert r"calm & $\mathbf{0.110}$" in text
    assert r"wild & $0.910^{*}$" in text
    assert text.count(r"\\") == 3 and text.endswith("\\end{tabular}\n")


def test_a_sweep_becomes_arms_by_the_settings_that_differ(runs, tmp_path):
    for run in sorted(runs.glob("*-*")):
        arm, _, seed = run.name.partition("-")
        config = OmegaConf.load(run / "config.yaml")
        config.hint, config.seed, config.run = {"strategy": arm}, int(seed), {"name": run.name}
        OmegaConf.save(config, run / "config.yaml")
    found = arms_of_sweep(tmp_path)
    assert [(a.name, [r.seed for r in a.runs]) for a in found] == [
        ("hint.strategy=calm", [0, 1, 2]),
        ("hint.strategy=wild", [0, 1, 2]),
    ]
    printed = main([str(tmp_path), "--metrics", "mae", "--reference", "hint.strategy=wild", "--resamples", "20"])
    assert "hint.strategy=wild (reference)" in printed
    with pytest.raises(ConfigError, match=r"--reference: one of hint.strategy=calm; hint.strategy=wild; got 'x'; mend"):
        main([str(tmp_path), "--metrics", "mae", "--reference", "x"])
    for run in tmp_path.glob("wild-*"):
        shutil.rmtree(run)
    with pytest.raises(
        StageError, match=r"3 evaluated runs below it, of 1 different settings, and 2 or more are needed"
    ):
        arms_of_sweep(tmp_path)


def test_an_offline_run_of_wandb_stands_for_the_run_that_it_lies_in(runs):
    folder = runs / "calm-0" / "rl" / "wandb" / "offline-run-20310203_040506-abcdefgh"
    folder.mkdir(parents=True)
    assert read_run(folder).run == runs / "calm-0"


def test_the_command_writes_page_markdown_and_latex(runs):
    out = runs / "out"
    command = [f"calm={runs}/calm-*", f"wild={runs}/wild-*", "--metrics", "mae", "--resamples", "20", "--out", str(out)]
    printed = main([*command, "--curve", "dev/polarity", "--slices", "conflict"])
    assert printed.endswith(str(out / "compare.html"))
    assert (out / "compare.md").read_text().strip() == printed.rpartition("\n\n")[0]
    assert (out / "compare.tex").read_text().count("tabular") == 2
    page = (out / "compare.html").read_text()
    assert str(runs) not in page  # it can be handed on


@needs_chromium
def test_a_person_finds_what_changed_between_arms(runs):
    main(
        [
            f"calm={runs}/calm-*",
            f"wild={runs}/wild-*",
            "--metrics",
            "mae",
            "--resamples",
            "20",
            "--out",
            str(runs / "out"),
        ]
    )
    records = {r.uid: r for r in read_records(runs / "calm-0" / "data" / "records.jsonl")}
    with opened(runs / "out" / "compare.html") as page:
        assert page.locator("nav a").all_inner_texts() == [
            "Results",
            "Item by item",
            "Parts of the items",
            "Curves",
            "Examples",
            "Runs",
        ]
        page.click("nav a >> text=Examples")
        page.click("[data-flag=changed]")
        assert page.inner_text(".filters [role=status]") == "2 of 8"
        names = [text.partition("\n")[0] for text in page.locator(".list li").all_inner_texts()]
        assert all(records[name].target.x < 0 for name in names)
        heads = page.locator(".one h4").all_inner_texts()
        assert [h.partition(":")[0] for h in heads] == ["calm, seed 0", "wild, seed 0"]
        assert heads[0].endswith("✓") and heads[1].endswith("✗")
        page.click("[data-flag=conflict]")
        assert (
            page.inner_text(".filters [role=status]")
            == f"{sum(r.meta['conflict'] for r in map(records.get, names))} of 8"
        )
        assert page.locator("figure svg").count() >= 1
