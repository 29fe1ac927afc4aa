import dataclasses
import math

import jax
import numpy as np
import pytest

from nami_jax.config import FlowConfig
from nami_jax.flow.times import draw_times, u_shaped

COUNT = 20_000
# Kolmogorov's distance of so many draws from their own distribution exceeds this once in 100,000 times:
# 2 exp(-2 n d^2) = 1e-5.
DISTANCE = math.sqrt(math.log(2 / 1e-5) / (2 * COUNT))


def normal(x):
    return np.array([0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x])


def logit(t):
    return np.log(t) - np.log1p(-t)


# Setting, and the share of times below t.
DENSITIES = {
    "logit_normal": (FlowConfig(), lambda t: normal(logit(t))),
    "shifted": (FlowConfig(time_mean=0.5, time_std=2.0), lambda t: normal((logit(t) - 0.5) / 2.0)),
    "uniform": (FlowConfig(time_sampling="uniform"), lambda t: t),
    # By the formula of the paper: half of an exponential on [0, 1], half of its mirror image.
    "u_shaped": (
        FlowConfig(time_sampling="u_shaped"),
        lambda t: (np.expm1(4 * t) + math.expm1(4) - np.expm1(4 * (1 - t))) / (2 * math.expm1(4)),
    ),
    "steep": (
        FlowConfig(time_sampling="u_shaped", time_slope=20.0),
        lambda t: (np.expm1(20 * t) + math.expm1(20) - np.expm1(20 * (1 - t))) / (2 * math.expm1(20)),
    ),
}


def distance(times, below):
    """Returns the largest difference between the share of `times` below a point and what it should be."""
    times = np.sort(np.asarray(times, np.float64))
    wanted = below(times)
    steps = np.arange(len(times) + 1) / len(times)
    return max(np.abs(wanted - steps[:-1]).max(), np.abs(wanted - steps[1:]).max())


@pytest.mark.parametrize("name", DENSITIES)
def test_times_have_the_density_that_is_set(name):
    flow, below = DENSITIES[name]
    times = draw_times(jax.random.key(0), (COUNT,), flow)
    assert times.dtype == np.float32
    assert float(times.min()) >= 0
    assert float(times.max()) <= 1
    assert distance(times, below) < DISTANCE
    others = [other for key, (_, other) in DENSITIES.items() if key != name]
    assert min(distance(times, other) for other in others) > 3 * DISTANCE  # so the distance tells them apart


def test_a_slope_near_0_is_uniform():
    assert distance(u_shaped(jax.random.key(0), (COUNT,), 1e-3), lambda t: t) < DISTANCE


def test_both_ends_are_drawn_as_often_and_cosh_2_times_as_often_as_the_middle():
    times = np.asarray(u_shaped(jax.random.key(1), (200_000,), 4.0))
    shares = {at: np.mean(np.abs(times - at) < 0.005) for at in (0.0, 0.5, 1.0)}
    low, middle, high = shares[0.0], shares[0.5] / 2, shares[1.0]  # half as wide a neighbourhood at the ends
    assert low == pytest.approx(high, rel=0.1)  # three standard errors
    assert (low + high) / 2 / middle == pytest.approx(math.cosh(2), rel=0.1)


def test_a_field_of_another_density_says_nothing_and_is_refused():
    for name in ("uniform", "u_shaped"):
        flow = FlowConfig(time_sampling=name)
        with pytest.raises(
            ValueError,
            match=rf"flow\.time_mean = 0\.5: is of flow\.time_sampling = 'logit_normal' "
            rf"alone, and this is '{name}'\. Set 0\.0, or that density",
        ):
            dataclasses.replace(flow, time_mean=0.5)
    with pytest.raises(ValueError, match=r"flow\.time_slope = 2\.0: is of flow\.time_sampling = 'u_shaped' alone"):
        FlowConfig(time_slope=2.0)
    for value in (0.0, -1.0, 21.0, math.nan):
        with pytest.raises(ValueError, match=r"flow\.time_slope = "):
            FlowConfig(time_sampling="u_shaped", time_slope=value)
    with pytest.raises(ValueError, match=r"flow\.time_sampling = 'beta': is not a valid choice"):
        FlowConfig(time_sampling="beta")  # pyright: ignore[reportArgumentType]
