"""A hard stop that requests in flight cannot overshoot."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.budget import Budget, BudgetSpent, Limits, Spent, read_limits
from runtime.errors import ConfigError

NONE = {"max_requests": None, "max_tokens": None, "max_cost": None, "prompt_price": None, "completion_price": None}


def budget(**limits):
    return Budget("teacher.budget", read_limits("teacher.budget", NONE | limits))


def test_a_cost_is_the_tokens_at_their_prices_for_a_million():
    # 1,000,000 * 2 / 1e6 + 500,000 * 8 / 1e6 = 2 + 4
    assert budget(prompt_price=2.0, completion_price=8.0).cost(Spent(3, 1_000_000, 500_000)) == 6.0
    assert budget(prompt_price=2.0).cost(Spent(3, 1, 1)) is None


@pytest.mark.parametrize(
    "limits, said",
    [
        ({"max_requests": 1}, "max_requests=1"),
        ({"max_tokens": 149}, "max_tokens=149"),
        ({"max_cost": 0.14, "prompt_price": 1000.0, "completion_price": 1000.0}, "max_cost=0.14"),
    ],
)
def test_a_request_that_could_go_over_is_not_begun(limits, said):
    async def ask():
        own = budget(**limits)
        own.spent = Spent(1, 60, 40)
        await own.reserve(Spent(1, 20, 30))  # 100 and at most 50 more

    with pytest.raises(
        BudgetSpent, match=rf"teacher.budget: the next request could go over {said}; spent are 1 requests"
    ):
        asyncio.run(ask())


def test_what_is_reserved_counts_until_it_is_settled_for_less():
    async def ask():
        own = budget(max_tokens=100)
        await own.reserve(Spent(1, 30, 50))
        second = asyncio.create_task(own.reserve(Spent(1, 30, 50)))  # 160 at most: has to wait, and is not refused
        await asyncio.sleep(0)
        waited = not second.done()
        own.settle(Spent(1, 30, 50), Spent(1, 15, 5))
        await second  # 20 are spent, and 80 more fit
        third = asyncio.create_task(own.reserve(Spent(1, 30, 50)))
        await asyncio.sleep(0)
        own.settle(Spent(1, 30, 50), Spent(1, 20, 1))
        with pytest.raises(BudgetSpent, match="spent are 2 requests and 41 tokens"):  # 41 + 80, and nobody is in flight
            await third
        return waited, own.spent

    assert asyncio.run(ask()) == (True, Spent(2, 35, 6))


def test_whoever_gives_up_waiting_disturbs_nobody():
    async def ask():
        own = budget(max_requests=1)
        await own.reserve(Spent(1))
        waiting = asyncio.create_task(own.reserve(Spent(1)))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        own.settle(Spent(1), Spent(0))
        await own.reserve(Spent(1))

    asyncio.run(ask())


@given(
    st.integers(50, 400),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 20)), min_size=1, max_size=30),
    st.data(),
)
def test_the_limit_is_never_overshot_whatever_ends_when(limit, outcomes, data):
    most = Spent(1, 30, 20)

    async def one(own, outcome, turns):
        await own.reserve(most)
        for _ in range(turns):
            await asyncio.sleep(0)
        own.settle(most, Spent(1, *outcome))

    async def everything():
        own = budget(max_tokens=limit)
        turns = data.draw(st.lists(st.integers(0, 5), min_size=len(outcomes), max_size=len(outcomes)))
        ended = await asyncio.gather(*map(one, [own] * len(turns), outcomes, turns), return_exceptions=True)
        return own.spent, [error for error in ended if error is not None]

    spent, errors = asyncio.run(everything())
    assert spent.tokens <= limit and all(isinstance(error, BudgetSpent) for error in errors)
    assert spent.requests == len(outcomes) - len(errors)
    assert not errors or spent.tokens + most.tokens > limit  # nobody was sent away who would have fitted


@pytest.mark.parametrize(
    "values, message",
    [
        ({"max_cost": 1.0}, "b.max_cost: a cost needs b.prompt_price and completion_price; state them"),
        ({"max_requests": -1}, "b.max_requests: 0 or more, or null; got -1; mend the config"),
        (
            {"max_hours": 1},
            r"b: its keys are max_requests, .*, completion_price; got \['completion_price', .*max_hours",
        ),
    ],
)
def test_limits_that_make_no_sense_are_named(values, message):
    with pytest.raises(ConfigError, match=message):
        read_limits("b", NONE | values)


def test_limits_are_read_as_they_are_written():
    values = {"max_requests": 10, "max_tokens": None, "max_cost": 2.5, "prompt_price": 1.0, "completion_price": 2.0}
    assert read_limits("b", values) == Limits(10, None, 2.5, 1.0, 2.0)
