"""The laws that every task passes. A new file in `conf/task/` is tested without a line here, except for its golden record."""

import json
import random
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from tasks.base import PARTS, UNREAD, WRONG, Dataset, Task
from tasks.dc import GRAMMARS, Answer, Fault, render
from tasks.record import SPLITS, Media, Record, check_groups, read_records
from tasks.target import Scalar, Target

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "conf" / "task").glob("*.yaml"))
GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))


def config(name: str):
    cfg = OmegaConf.load(ROOT / "conf" / "task" / f"{name}.yaml")
    return OmegaConf.merge(cfg, {"train": 4, "dev": 2, "test": 3}) if name == "studio" else cfg


@pytest.fixture(params=NAMES)
def task(request: pytest.FixtureRequest, data_from: Path) -> Task:
    return instantiate(config(request.param))


@pytest.fixture
def data(task: Task, tmp_path: Path) -> Dataset:
    return task.dataset(tmp_path / "run")


def completion(record: Record, grammar: str, value: Target) -> str:
    form = GRAMMARS[grammar]
    bodies = dict.fromkeys((b for b in form.blocks if b != "answer"), "the cues say so")
    return render(Answer(value, value.coarse() if form.verdict else None, bodies), form)


def golds(records: tuple[Record, ...]) -> list[Target]:
    return [r.target for r in records]


def test_the_records_are_the_golden_ones(task: Task, data: Dataset) -> None:
    assert data.records[0].to_json() == GOLDEN[task.name]


def test_every_split_has_records_and_no_group_is_in_two(data: Dataset) -> None:
    assert all(data.split(name) for name in SPLITS)
    check_groups(data.records)
    groups = [{r.group for r in data.split(name)} for name in SPLITS]
    assert sum(map(len, groups)) == len(set.union(*groups))


def test_preparing_twice_changes_nothing(task: Task, tmp_path: Path) -> None:
    def files() -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}

    root = task.prepare(tmp_path / "run")
    before = files()
    assert task.prepare(tmp_path / "run") == root
    assert files() == before


def test_records_survive_the_file(data: Dataset, tmp_path: Path) -> None:
    assert tuple(read_records(tmp_path / "run" / "records.jsonl")) == data.records


def test_media_pointers_lead_to_files_below_the_root(data: Dataset) -> None:
    pointers = [v for r in data.records for v in r.views.values() if isinstance(v, Media)]
    assert all((data.root / p.path).is_file() for p in pointers)


def test_the_prompt_shows_the_chosen_views_in_order_and_ends_with_the_question(task: Task, data: Dataset) -> None:
    for record in data.records:
        (message,) = task.prompt(record, data.root)
        *shown, question = message["content"]
        assert question == {"type": "text", "text": task.question(record)}
        kinds = [part["type"] for part in shown]
        views = [record.views[name] for name in task.views if name in record.views]
        assert kinds == [v.kind if isinstance(v, Media) else "text" for v in views] and kinds


def test_a_rendered_target_reads_back(data: Dataset) -> None:
    assert all(t.read(t.render()) == t for t in golds(data.records))


@pytest.mark.parametrize("grammar", GRAMMARS)
def test_gold_earns_full_marks(task: Task, data: Dataset, grammar: str) -> None:
    task.grammar = GRAMMARS[grammar]
    for record in data.records:
        score = task.score(record, completion(record, grammar, record.target))
        assert score.fault is None and score.answer is not None and score.answer.value == record.target
        stated = 1.0 if task.grammar.verdict else None
        assert score.parts == UNREAD | {"format": 1.0, "discriminate": 1.0, "calibrate": 1.0, "agreement": stated}


@pytest.mark.parametrize("text", ["", "positive", "<answer>42 apples</answer>", "<answer>1</answer><answer>2</answer>"])
def test_garbage_earns_zero_and_a_named_fault(task: Task, data: Dataset, text: str) -> None:
    score = task.score(data.records[0], text)
    assert isinstance(score.fault, Fault) and score.answer is None
    assert score.parts == WRONG and set(WRONG) == set(PARTS)


def test_the_wrong_side_is_seen_and_contradiction_too(task: Task, data: Dataset) -> None:
    record = data.records[0]
    other = next(r for r in data.records if r.target.coarse() != record.target.coarse())
    wrong = task.score(record, completion(record, "dc", other.target))
    assert wrong.parts["discriminate"] == 0.0 and wrong.parts["agreement"] == 1.0
    assert wrong.parts["calibrate"] is not None and wrong.parts["calibrate"] < 1
    answer = Answer(record.target, other.target.coarse(), {"discriminate": "so", "calibrate": "so"})
    torn = task.score(record, render(answer, GRAMMARS["dc"]))
    assert torn.parts == UNREAD | {"format": 1.0, "discriminate": 0.0, "calibrate": 1.0, "agreement": 0.0}


def test_coarse_says_less_than_the_target(data: Dataset) -> None:
    targets = golds(data.records)
    assert all(t.coarse() in t.coarse_space() for t in targets)
    if isinstance(targets[0], Scalar):
        targets = [Scalar(t.lo + k * (t.hi - t.lo) / 20, t.lo, t.hi, t.neutral) for t in targets[:1] for k in range(21)]
    assert len({t.coarse() for t in targets}) < len({t.render() for t in targets})
    assert all(r.target.hintable for r in data.records)


def test_a_vote_does_not_depend_on_the_order(data: Dataset) -> None:
    targets = golds(data.records)
    shuffled = random.Random(0).sample(targets, len(targets))
    assert targets[0].vote(targets) == targets[0].vote(shuffled)
    assert all(t.vote([t] * n) == t for t in targets for n in (1, 2, 3))


def test_gold_is_perfect_in_the_metrics_and_silence_is_not(task: Task, data: Dataset) -> None:
    gold = golds(data.records)
    perfect, silent = task.metrics(gold, gold), task.metrics(gold, [None] * len(gold))
    assert perfect.keys() == silent.keys()
    for name, value in perfect.items():
        if name in ("mae", "unparseable"):
            assert value == 0 < silent[name]
        else:
            assert value == pytest.approx(1) and silent[name] < 0.5


def test_the_baseline_answers_every_record_in_its_space(task: Task, data: Dataset) -> None:
    test = data.split("test")
    answers = task.baseline(data.split("train"), test)
    assert len(answers) == len(test)
    assert all(r.target.read(a.render()) == a for r, a in zip(test, answers, strict=True))
    assert all(a == answers[0] for a in answers)


@pytest.mark.parametrize("name", NAMES)
def test_every_key_of_a_task_config_is_explained(name: str) -> None:
    lines = (ROOT / "conf" / "task" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ") and lines[1].startswith("_target_: ")
    assert all("  # " in line for line in lines[2:])


def test_every_task_has_a_golden_record() -> None:
    assert set(GOLDEN) == set(NAMES)
