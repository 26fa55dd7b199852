"""When a run is said to farm its reward."""

import pytest

from rl.alarm import farming, pays_canaries


def rows(*pairs: tuple[float, float]) -> list[dict[str, float]]:
    """Two rows of training before each measurement on dev."""
    return [row for paid, close in pairs for row in ({"reward": paid}, {"reward": paid, "dev/calibrate": close})]


@pytest.mark.parametrize(
    ("history", "warned"),
    [
        (((0.5, 0.8), (0.6, 0.8), (0.7, 0.8)), True),
        (((0.5, 0.8), (0.6, 0.75), (0.7, 0.7)), True),
        (((0.5, 0.8), (0.6, 0.85), (0.7, 0.85)), False),  # better on dev, too
        (((0.5, 0.8), (0.52, 0.8), (0.54, 0.8)), False),  # hardly more reward
        (((0.5, 0.8), (0.9, 0.8)), False),  # too early to say
        (((0.7, 0.8), (0.6, 0.8), (0.5, 0.7)), False),
    ],
)
def test_more_reward_without_better_answers_is_warned_of(history, warned: bool):
    assert (farming(rows(*history)) is not None) == warned


def test_the_warning_tells_the_figures():
    warning = farming(rows((0.5, 0.8), (0.6, 0.8), (0.7, 0.78)))
    assert warning is not None
    # after: rows since the measurement before the latest; dev: mean of .8 and .78
    assert "rose from 0.500 to 0.700" in warning and "closeness 0.800, now 0.790" in warning


def test_canaries_that_are_paid_are_warned_of_with_their_margin():
    warning = pays_canaries({"dev/canary/blind": 0.2, "dev/canary/parasitic": -0.031, "dev/mae": -1.0})
    assert warning is not None and "(dev/canary/parasitic -0.031)" in warning
    assert pays_canaries({"dev/canary/blind": 0.2, "dev/mae": -1.0}) is None
