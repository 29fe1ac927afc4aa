import json

import numpy as np
import pytest

from nami_jax.config import SampleConfig
from nami_jax.flow.schedule import linear_grids, make_schedules, released_grids
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


def test_shift_moves_local_times_as_sd3_does_and_keeps_the_ends():
    stages = make_stages(3)
    (schedule, *_) = make_schedules(stages, SampleConfig((4, 1, 1), shift=3.0))
    np.testing.assert_allclose(schedule.grid.taus, [1, 0.9, 0.75, 0.5, 0], rtol=1e-6)  # 3 tau / (1 + 2 tau)
    np.testing.assert_allclose(schedule.grid.times, stages[0].global_time(schedule.grid.taus), rtol=1e-6)


def test_local_times_of_one_s_own_are_taken_as_they_are():
    stages = make_stages(2)
    schedules = make_schedules(stages, SampleConfig((2, 1), taus=((1.0, 0.3, 0.0), (1.0, 0.0))))
    np.testing.assert_allclose(schedules[0].grid.taus, [1, 0.3, 0])
    np.testing.assert_allclose(schedules[0].grid.times, stages[0].global_time(np.array([1, 0.3, 0])), rtol=1e-6)
    np.testing.assert_allclose(schedules[1].grid.taus, [1, 0])


def test_steps_that_begin_within_the_interval_and_have_a_scale_are_guided():
    stages = make_stages(3)  # global time 1, 29/39 = 0.74, 15/39 = 0.38, 0
    sample = SampleConfig((2, 2, 2), (3.0, 1.0, 2.0), guidance_interval=(0.2, 0.9))
    guided = [schedule.guided for schedule in make_schedules(stages, sample)]
    assert guided == [(False, True), (False, False), (True, False)]
    assert [schedule.scale for schedule in make_schedules(stages, sample)] == [3, 1, 2]
    assert all(all(schedule.guided) for schedule in make_schedules(stages, SampleConfig((2, 2, 2))))


def test_zero_init_leaves_out_the_first_steps_of_the_first_stage_alone():
    stages = make_stages(2)
    plain, cut = (make_schedules(stages, SampleConfig((4, 3), zero_init_steps=count)) for count in (0, 1))
    np.testing.assert_array_equal(cut[0].grid.taus, plain[0].grid.taus[1:])
    np.testing.assert_array_equal(cut[0].grid.times, plain[0].grid.times[1:])
    assert len(cut[0].guided) == 3
    np.testing.assert_array_equal(cut[1].grid.taus, plain[1].grid.taus)


def test_a_scale_of_one_or_less_is_no_guidance_as_in_the_release():
    schedules = make_schedules(make_stages(3), SampleConfig((2, 2, 2), (1.0, 0.5, 1.5)))
    assert [schedule.guided for schedule in schedules] == [(False, False), (False, False), (True, True)]
