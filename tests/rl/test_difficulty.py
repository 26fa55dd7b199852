"""Solve rates and the orders made of them: laws as properties, figures by hand, and a resumed epoch that goes on as it began."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import torch
from accelerate.data_loader import DataLoaderShard, prepare_data_loader, skip_first_batches
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from toys import remark
from trl.trainer.utils import RepeatSampler

from rl.config import ORDERS
from rl.difficulty import DifficultySampler, SolveMemory, order
from runtime.errors import ConfigError
from runtime.files import read_jsonl
from tasks.record import Record


def restored(state: Mapping[str, Any]) -> SolveMemory:
    """A new memory that has loaded `state`."""
    memory = SolveMemory()
    memory.load(state)
    return memory


CLEAR, EDGE = 2.0, 0.3
"""Labels on a scale whose neutral zone ends at 0.2."""

rates = st.none() | st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 2 / 3, 0.9, 1.0])
epochs = st.lists(st.tuples(rates, st.booleans()), max_size=30)
"""Of each record: its rate, and whether it is borderline."""


def some(drawn: Sequence[tuple[float | None, bool]]) -> tuple[list[Record], dict[str, float]]:
    records = [remark(f"r-{i}", x=EDGE if edge else CLEAR) for i, (_, edge) in enumerate(drawn)]
    return records, {f"r-{i}": rate for i, (rate, _) in enumerate(drawn) if rate is not None}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# The memory


def test_a_rate_is_the_newest_visit_and_half_of_its_past() -> None:
    memory = SolveMemory()
    assert memory.rate("a") is None
    memory.note("a", [True, True, False, True], 3)
    assert memory.rate("a") == 0.75
    memory.note("a", [False, False], 9)
    assert memory.rate("a") == 0.375  # 0.5 * 0 + 0.5 * 0.75
    assert memory.state()["seen"] == {"a": [2, 6, 0.375, 9]}


def test_rollouts_that_could_not_be_scored_do_not_count() -> None:
    memory = SolveMemory()
    memory.note("a", [None, True, None, False], 1)
    memory.note("b", [None, None], 1)
    memory.note("c", [], 1)
    assert memory.state()["seen"] == {"a": [1, 2, 0.5, 1]}
    assert memory.rate("b") is None


def test_hard_is_what_was_tried_seldom_solved_and_clearly_labelled() -> None:
    records = [remark("failed"), remark("half"), remark("solved"), remark("new"), remark("edge", x=EDGE)]
    memory = SolveMemory()
    for uid, right in (("failed", 0), ("half", 2), ("solved", 4), ("edge", 0)):
        memory.note(uid, [i < right for i in range(4)], 1)
    assert memory.hard(records, 0.5) == ["failed"]
    assert memory.hard(records, 0.51) == ["failed", "half"]
    assert memory.hard(records, 1.0) == ["failed", "half"]


def test_the_export_names_every_record_and_the_hard_ones(tmp_path: Path) -> None:
    memory = SolveMemory()
    memory.note("a", [False, False, None, True], 1)
    memory.note("b", [False], 1)
    memory.export(tmp_path / "solve.jsonl", [remark("a"), remark("b", x=-EDGE), remark("c", x=-2.0)], below=0.5)
    names = ("uid", "group", "coarse", "visits", "rollouts", "solve_rate", "borderline", "hard")
    rows = [
        ("a", "a", "positive", 1, 3, 1 / 3, False, True),
        ("b", "b", "negative", 1, 1, 0.0, True, False),
        ("c", "c", "negative", 0, 0, None, False, False),
    ]
    assert read_jsonl(tmp_path / "solve.jsonl") == [dict(zip(names, row, strict=True)) for row in rows]


def test_an_epoch_keeps_the_rates_that_it_began_with() -> None:
    memory = SolveMemory()
    assert memory.begin(0) == {}
    memory.note("a", [True], 1)
    assert memory.begin(0) == {}
    assert memory.begin(1) == {"a": 1.0}
    memory.note("a", [False], 2)
    assert memory.begin(1) == {"a": 1.0}
    assert memory.begin(2) == {"a": 0.5}


visits = st.lists(st.tuples(st.sampled_from("abcd"), st.lists(st.none() | st.booleans(), max_size=4)), max_size=12)


@given(visits, st.none() | st.integers(0, 12))
def test_a_memory_survives_json(noted: list, begun: int | None) -> None:
    memory = SolveMemory()
    for step, (uid, solved) in enumerate(noted):
        if step == begun:
            memory.begin(1)
        memory.note(uid, solved, step)
    again = restored(json.loads(json.dumps(memory.state(), allow_nan=False)))
    assert again.state() == memory.state()
    assert [again.begin(epoch) for epoch in (1, 2)] == [memory.begin(epoch) for epoch in (1, 2)]


def test_a_kept_state_does_not_change_with_the_memory() -> None:
    memory = SolveMemory()
    memory.note("a", [True], 1)
    memory.begin(1)
    kept = memory.state()
    again = restored(kept)
    for one in (memory, again):
        one.note("a", [False], 2)
        one.begin(2)
    assert kept == {"seen": {"a": [1, 1, 1.0, 1]}, "epoch": 1, "at_start": {"a": 1.0}}


# The order of an epoch


@given(epochs, st.sampled_from(ORDERS), st.integers(0, 99))
def test_an_order_holds_every_record_once_and_follows_from_its_seed(drawn: list, how: str, seed: int) -> None:
    records, known = some(drawn)
    found = order(records, known, how, seeded(seed))
    assert sorted(found) == list(range(len(records)))
    assert found == order(records, dict(reversed(known.items())), how, seeded(seed))


@given(epochs, st.integers(0, 99))
def test_hard_first_goes_from_the_least_solved_to_the_most(drawn: list, seed: int) -> None:
    records, known = some(drawn)
    found = [drawn[i] for i in order(records, known, "hard_first", seeded(seed))]
    places = [0.5 if rate is None else max(rate, 0.5) if edge else rate for rate, edge in found]
    assert places == sorted(places)


@given(epochs, st.integers(0, 99))
def test_every_stretch_of_a_balanced_order_has_the_mix_of_the_epoch(drawn: list, seed: int) -> None:
    def sort(index: int) -> str:
        rate, edge = drawn[index]
        if rate is None or 1 / 3 <= rate < 2 / 3:
            return "sometimes"
        return "mostly" if rate >= 2 / 3 else "sometimes" if edge else "seldom"

    records, known = some(drawn)
    found = [sort(index) for index in order(records, known, "balanced", seeded(seed))]
    for kind in ("seldom", "sometimes", "mostly"):
        share = found.count(kind) / max(1, len(found))
        for length in range(len(found) + 1):
            assert abs(found[:length].count(kind) - length * share) <= 1 + 1e-9


def test_equal_counts_give_one_of_each_sort_in_every_three() -> None:
    records, known = some([(rate, False) for rate in (0.0, 0.5, 1.0) for _ in range(4)])
    found = [index // 4 for index in order(records, known, "balanced", seeded())]
    triples = [tuple(found[i : i + 3]) for i in range(0, 12, 3)]
    assert all(set(triple) == {0, 1, 2} for triple in triples)
    assert len(set(triples)) > 1  # and not always in the same order


@pytest.mark.parametrize("how", ORDERS)
def test_equals_are_shuffled_anew_by_every_seed(how: str) -> None:
    records, known = some([(rate, False) for rate in (0.0, 0.5, 1.0) for _ in range(4)])
    orders = [order(records, known, how, seeded(seed)) for seed in range(4)]
    assert len(set(map(tuple, orders))) == 4
    assert len({tuple(i for i in found if i < 4) for found in orders}) > 1


def test_nothing_is_known_of_the_first_epoch_and_all_orders_are_uniform() -> None:
    records, _ = some([(None, i % 2 == 0) for i in range(9)])
    uniform = torch.randperm(9, generator=seeded()).tolist()
    assert [order(records, {}, how, seeded()) for how in ORDERS] == [uniform] * 3


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        order([remark()], {}, "easy_first", seeded())
    assert str(caught.value) == (
        "rl.order: one of ('none', 'hard_first', 'balanced'); got 'easy_first'; mend the config"
    )


# The sampler


def sampler(memory: SolveMemory, how: str, records: Sequence[Record], batch: int = 3) -> DifficultySampler:
    return DifficultySampler(records, memory, how, mini_repeat_count=2, batch_size=batch, repeat_count=2, seed=5)


@given(st.integers(0, 12), st.integers(1, 4), st.integers(0, 3))
def test_without_difficulty_the_sequence_is_that_of_trls_sampler(count: int, batch: int, epoch: int) -> None:
    records = [remark(f"r-{i}") for i in range(count)]
    memory = SolveMemory()
    for record in records[::2]:
        memory.note(record.uid, [False], 1)
    ours = sampler(memory, "none", records, batch)
    ours.set_epoch(epoch)
    stock = RepeatSampler(records, mini_repeat_count=2, batch_size=batch, repeat_count=2, seed=5 + epoch)
    assert list(ours) == list(ours) == list(stock)
    assert len(ours) == len(stock) == len(list(stock))


def test_the_sampler_shows_the_order_in_whole_repeated_batches() -> None:
    records, known = some([(rate, False) for rate in (1.0, 0.9, 0.5, 0.25, 0.0)])
    memory = SolveMemory()
    memory.load({"seen": {uid: [1, 8, rate, 1] for uid, rate in known.items()}, "epoch": None, "at_start": {}})
    found = list(sampler(memory, "hard_first", records, batch=2))
    assert found == [4, 4, 3, 3] * 2 + [2, 2, 1, 1] * 2  # the solved one does not fill a batch


def outcome(record: Record, step: int) -> list[bool]:
    """Whatever: arbitrary rates that change from visit to visit."""
    return [crc32(f"{record.uid} {step} {i}".encode()) % 3 == 0 for i in range(4)]


RECORDS = [remark(f"r-{i}", x=EDGE if i % 4 == 0 else CLEAR) for i in range(9)]
STEPS = 4  # batches of two prompts in an epoch; one record is left out


def train(memory: SolveMemory, how: str, ranks: int, start: int, stop: int) -> Iterator[tuple[list[list[int]], str]]:
    """What each rank is shown at each step, and the state after it, as the Trainer and accelerate go through the epochs."""
    shards = []
    for rank in range(ranks):
        of_rank = DifficultySampler(RECORDS, memory, how, mini_repeat_count=2, batch_size=2, repeat_count=1, seed=5)
        loader = DataLoader(list(range(9)), batch_size=4 // ranks, sampler=of_rank, drop_last=True)  # type: ignore[arg-type]
        shards.append(prepare_data_loader(loader, num_processes=ranks, process_index=rank, put_on_device=False))
    for epoch in range(start // STEPS, (stop - 1) // STEPS + 1):
        skipped = max(0, start - epoch * STEPS)
        loaders = [skip_first_batches(shard, skipped) if skipped else shard for shard in shards]
        for loader in loaders:
            assert isinstance(loader, DataLoaderShard)
            loader.set_epoch(epoch)
        for step, batches in enumerate(zip(*loaders, strict=True), epoch * STEPS + skipped):
            if step == stop:
                return
            shown = [batch.tolist() for batch in batches]
            for index in {i for batch in shown for i in batch}:
                memory.note(RECORDS[index].uid, outcome(RECORDS[index], step), step)
            yield shown, json.dumps(memory.state())


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(ORDERS), st.sampled_from([1, 2]), st.integers(1, 3 * STEPS - 1))
def test_a_resumed_epoch_goes_on_as_it_began(how: str, ranks: int, broken_at: int) -> None:
    whole = list(train(SolveMemory(), how, ranks, 0, 3 * STEPS))
    first = list(train(SolveMemory(), how, ranks, 0, broken_at))
    memory = restored(json.loads(first[-1][1]))
    assert first + list(train(memory, how, ranks, broken_at, 3 * STEPS)) == whole
    assert len({str(shown) for shown, _ in whole}) > STEPS  # the epochs differ


@pytest.mark.parametrize("how", ["hard_first", "balanced"])
def test_without_the_rates_that_it_began_with_it_would_not(how: str) -> None:
    """Otherwise the test above shows nothing."""
    whole = list(train(SolveMemory(), how, 1, 0, 3 * STEPS))
    forgetful = restored(json.loads(whole[STEPS + 1][1]) | {"epoch": None})
    assert list(train(forgetful, how, 1, STEPS + 2, 3 * STEPS)) != whole[STEPS + 2 :]


def test_a_sampler_that_is_told_no_epoch_takes_the_running_one() -> None:
    memory = SolveMemory()
    told, untold = sampler(memory, "none", RECORDS), sampler(memory, "none", RECORDS)
    first = list(untold)
    for epoch in range(3):
        told.set_epoch(epoch)
        assert list(told) == list(untold)
        assert (list(told) == first) == (epoch == 0)
