import json

import numpy as np
import pytest

from nami_jax.flow.schedule import linear_grids, released_grids
from nami_jax.flow.stages import make_stages
from tests.support.paths import GOLDEN

VECTORS = GOLDEN / "nami_tiny" / "config.json"


def test_linear_grid_has_equal_steps_between_a_stage_s_ends():
    stages = make_stages(3)
    grids = linear_grids(stages, (2, 4, 1))
    np.testing.assert_allclose(grids[0].taus, [1, 0.5, 0])
    np.testing.assert_allclose(grids[0].times, [1, (1 + 29 / 39) / 2, 29 / 39], rtol=1e-6)
    np.testing.assert_allclose(grids[2].times, [15 / 39, 0], rtol=1e-6)


def test_released_grid_is_the_released_scheduler_s():
    config = json.loads(VECTORS.read_text())
    grids = released_grids(3, config["steps"])
    for grid, released in zip(grids, config["schedule"].values(), strict=True):
        np.testing.assert_allclose(grid.taus, released["sigmas"], rtol=1e-6)
        np.testing.assert_allclose(grid.times[:-1] * 1000, released["timesteps"], rtol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_released_grid_falls_from_one_to_zero_in_every_stage(count):
    for grid in released_grids(count, (5,) * count):
        assert grid.taus[0] == 1
        assert grid.taus[-1] == 0
        assert np.all(np.diff(grid.taus) < 0)
        assert np.all(np.diff(grid.times) < 0)
