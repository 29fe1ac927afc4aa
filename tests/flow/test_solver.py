import jax.numpy as jnp
import numpy as np
import pytest

from nami_jax.config import SampleConfig, choices
from nami_jax.flow.schedule import Grid, linear_grids
from nami_jax.flow.solver import SOLVERS, double, euler, guide, heun
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


@pytest.mark.parametrize(("solver", "order"), [(euler, 1), (heun, 2)])
def test_error_falls_with_the_order_of_the_solver(solver, order):
    def error(steps):
        (grid,) = linear_grids(make_stages(1), (steps,))
        return float(jnp.abs(solver(lambda x, t: x, X, grid) - X * np.exp(-1)).max())  # dx/dtau = x

    assert error(8) / error(16) == pytest.approx(2**order, rel=0.1)


def test_guidance_leads_from_the_unconditional_through_the_conditional_velocity():
    conditional, unconditional = jnp.array([[3.0], [5.0]]), jnp.array([[1.0], [6.0]])
    velocity = jnp.concatenate([conditional, unconditional])
    np.testing.assert_array_equal(guide(velocity, 3.0), [[7.0], [3.0]])
    np.testing.assert_array_equal(guide(velocity, 1.0), conditional)
    np.testing.assert_array_equal(guide(velocity, 0.0), unconditional)


def test_double_repeats_the_whole_batch():
    np.testing.assert_array_equal(double(jnp.array([1, 2])), [1, 2, 1, 2])
