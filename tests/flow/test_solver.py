import jax.numpy as jnp
import numpy as np
import pytest

from nami_jax.config import SampleConfig, choices
from nami_jax.flow.schedule import Grid, linear_grids
from nami_jax.flow.solver import SOLVERS, ab2, double, euler, guide, heun, midpoint
from nami_jax.flow.stages import make_stages

X = jnp.array([1.0, -2.0]).reshape(2, 1, 1, 1)


def test_solvers_are_those_of_the_config():
    assert set(SOLVERS) == set(choices(SampleConfig, "solver"))


@pytest.mark.parametrize("solver", SOLVERS.values())
def test_constant_velocity_is_integrated_exactly(solver):
    (grid,) = linear_grids(make_stages(1), (3,))
    np.testing.assert_allclose(solver(lambda x, t: jnp.full_like(x, 5.0), X, grid), X - 5, rtol=1e-6)


def test_one_euler_step_worked_by_hand():
    grid = Grid(np.array([1.0, 0.25], np.float32), np.array([0.5, 0.1], np.float32))
    np.testing.assert_allclose(euler(lambda x, t: 2 * x + t, X, grid), X - 0.75 * (2 * X + 0.5), rtol=1e-6)


def test_one_heun_step_worked_by_hand():
    grid = Grid(np.array([1.0, 0.0], np.float32), np.array([1.0, 0.0], np.float32))
    # v = x + t: here X + 1, there (X - (X + 1)) + 0 = -1.
    np.testing.assert_allclose(heun(lambda x, t: x + t, X, grid), X - (X + 1 - 1) / 2, rtol=1e-6)


def test_one_midpoint_step_worked_by_hand():
    grid = Grid(np.array([1.0, 0.0], np.float32), np.array([1.0, 0.5], np.float32))
    # v = x + t: here X + 1, half-way (X - (X + 1) / 2) + 0.75.
    np.testing.assert_allclose(midpoint(lambda x, t: x + t, X, grid), X - (X / 2 + 0.25), rtol=1e-6)


def test_two_steps_of_ab2_of_different_lengths_worked_by_hand():
    grid = Grid(np.array([1.0, 0.5, 0.25], np.float32), np.array([1.0, 0.5, 0.25], np.float32))
    first = X - 0.5 * X  # Euler's
    # h / (2 h') = 1/4: x - (v + (v - v') / 4) / 4.
    expected = first - (first + (first - X) / 4) / 4
    np.testing.assert_allclose(ab2(lambda x, t: x, X, grid), expected, rtol=1e-6)


@pytest.mark.parametrize("shift", [1.0, 3.0])  # steps of one length, and of many
@pytest.mark.parametrize(("solver", "order"), [(euler, 1), (heun, 2), (midpoint, 2), (ab2, 2)])
def test_error_falls_with_the_order_of_the_solver(solver, order, shift):
    def error(steps):
        (grid,) = linear_grids(make_stages(1), (steps,), shift)
        found = solver(lambda x, t: x * (1 + 2 * t), X, grid)  # from t = 1 to 0: x(0) = x(1) exp(-1 - 1)
        return float(jnp.abs(found - X * np.exp(-2)).max())

    assert set(SOLVERS.values()) == {euler, heun, midpoint, ab2}
    assert error(32) / error(64) == pytest.approx(2**order, rel=0.15)


@pytest.mark.parametrize("solver", SOLVERS.values())
def test_what_depends_on_time_alone_is_prepared_outside_the_steps(solver):
    (grid,) = linear_grids(make_stages(1), (3,))
    asked = []

    def prepare(times):
        asked.append(len(times))
        return jnp.asarray(times), 2 * jnp.asarray(times)

    found = solver(lambda x, times: x * times[0] + times[1], X, grid, prepare)
    np.testing.assert_allclose(found, solver(lambda x, t: x * t + 2 * t, X, grid), rtol=1e-6)
    assert sum(asked) in (3, 4, 6)  # of 3 steps: each time once, whatever the solver


def test_guidance_leads_from_the_unconditional_through_the_conditional_velocity():
    conditional, unconditional = jnp.array([[3.0], [5.0]]), jnp.array([[1.0], [6.0]])
    velocity = jnp.concatenate([conditional, unconditional])
    np.testing.assert_array_equal(guide(velocity, 3.0), [[7.0], [3.0]])
    np.testing.assert_array_equal(guide(velocity, 1.0), conditional)
    np.testing.assert_array_equal(guide(velocity, 0.0), unconditional)


def test_rescaled_guidance_has_the_spread_of_the_conditional_velocity():
    rng = np.random.default_rng(0)
    velocity = jnp.asarray(rng.normal(size=(4, 8, 8, 3)), jnp.float32)
    plain, rescaled = guide(velocity, 5.0), guide(velocity, 5.0, rescale=1.0)
    np.testing.assert_allclose(rescaled.std((1, 2, 3)), velocity[:2].std((1, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(guide(velocity, 5.0, rescale=0.25), 0.25 * rescaled + 0.75 * plain, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(guide(velocity, 5.0, rescale=0.0), plain)


def test_cfg_zero_star_worked_by_hand():
    conditional, unconditional = jnp.array([[3.0, 1.0]]), jnp.array([[2.0, 0.0]])
    # <cond, uncond> / |uncond|^2 = 6 / 4: the unconditional one becomes (3, 0), and only (0, 1) is left to guide along.
    velocity = jnp.concatenate([conditional, unconditional])
    np.testing.assert_allclose(guide(velocity, 4.0, zero_star=True), [[3.0, 4.0]], rtol=1e-6)
    np.testing.assert_allclose(guide(velocity, 1.0, zero_star=True), conditional, rtol=1e-6)


def test_double_repeats_the_whole_batch():
    np.testing.assert_array_equal(double(jnp.array([1, 2])), [1, 2, 1, 2])
