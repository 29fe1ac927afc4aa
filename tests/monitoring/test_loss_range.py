import math

import numpy as np
import pytest

from nami_jax.monitoring.loss_range import LossRange


def after(losses, max_rise: float | None = 4.0):
    found = LossRange(max_rise)
    for loss in losses:
        assert found.holds(loss)
        found.add(loss)
    return found


def test_a_steady_loss_may_rise_by_the_factor_and_no_further():
    found = after([0.5] * 1000)
    assert found.limit == pytest.approx(2.0, rel=0.01)
    assert found.holds(1.98)
    assert not found.holds(2.05)


def test_a_loss_that_scatters_may_rise_further():
    # Half of the logarithms are 1 above the level, half below: 4 spreads are a factor of e^4.
    found = after(np.exp(np.tile([-1.0, 1.0], 500)))
    assert found.limit == pytest.approx(4.0 * math.exp(4.0), rel=0.1)


def test_a_falling_loss_is_never_out_of_range_and_what_it_fell_from_is_forgotten():
    found = after(np.geomspace(2.0, 0.02, 3000))
    assert found.holds(0.0)
    assert not found.holds(0.2)


def test_of_few_losses_little_is_known():
    assert LossRange(4.0).holds(1e6)
    assert 10 < after([1.0]).limit < 100
    assert after([1.0] * 10).limit < 10


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_what_is_not_finite_is_out_of_any_range(loss):
    assert not LossRange(None).holds(loss)
    assert not LossRange(4.0).holds(loss)


def test_without_a_limit_whatever_is_finite_is_in_range():
    assert after([1.0] * 50, max_rise=None).holds(1e30)


def test_a_continued_range_goes_on_where_it_was():
    whole, part = after([1.0, 0.7, 0.9, 0.5]), after([1.0, 0.7])
    again = LossRange.continued(4.0, part.state())
    for loss in (0.9, 0.5):
        again.add(loss)
    assert again == whole
    assert LossRange.continued(4.0, None) == LossRange(4.0)
