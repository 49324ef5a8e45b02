"""What a learning-rate finder answers to losses whose shape is known."""

import numpy as np
import pytest

from benchmarks.rate_finder import RATES, answers


def curve(least, floor=0.5):
    """Losses that fall from 1 to a floor at a rate, and grow without end above it."""
    log = np.log(RATES / least)
    return np.where(log < 0, 1 - (1 - floor) * np.exp(log), floor * np.exp(2 * log))


@pytest.mark.parametrize("least", [1e-3, 1e-1])
def test_a_tenth_of_the_rate_of_the_least_loss(least):
    found = answers(curve(least))
    # Smoothing over some fifty losses moves the least to larger rates.
    assert least / 10 <= found["tenth"] <= 3 * least
    assert least / 30 <= found["steepest"] <= 10 * least
    assert found["tenth"] < answers(curve(10 * least))["tenth"]


@pytest.mark.parametrize(
    "losses", [np.full(100, np.nan), np.r_[1.0, np.full(99, np.inf)], np.ones(100)]
)
def test_losses_without_a_fall_have_an_answer(losses):
    for rate in answers(losses).values():
        assert RATES[0] / 10 <= rate <= RATES[-1]
