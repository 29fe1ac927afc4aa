import itertools

import pytest

from nami_jax.flow.stages import make_stages


def test_three_stages_have_the_windows_of_the_paper():
    stages = make_stages(3)
    assert [s.sigma_start for s in stages] == pytest.approx([1, 0.8, 0.5])
    assert [s.sigma_end for s in stages] == pytest.approx([2 / 3, 1 / 3, 0])
    assert [s.time_start for s in stages] == pytest.approx([1, 29 / 39, 15 / 39])
    assert [s.time_end for s in stages] == pytest.approx([29 / 39, 15 / 39, 0])
    assert [s.downscale for s in stages] == [4, 2, 1]


def test_one_stage_is_ordinary_rectified_flow():
    (stage,) = make_stages(1)
    assert (stage.sigma_start, stage.sigma_end, stage.time_start, stage.time_end, stage.downscale) == (1, 0, 1, 0, 1)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
def test_global_time_runs_from_one_to_zero_without_gaps(count):
    stages = make_stages(count)
    assert stages[0].time_start == pytest.approx(1)
    assert stages[-1].time_end == 0
    for before, after in itertools.pairwise(stages):
        assert before.time_end == after.time_start
        assert after.sigma_start > before.sigma_end


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_global_time_advances_in_proportion_to_the_noise_level(count):
    stages = make_stages(count)
    slopes = [(s.time_start - s.time_end) / (s.sigma_start - s.sigma_end) for s in stages]
    assert slopes == pytest.approx([slopes[0]] * count)


def test_given_ends_are_kept_and_starts_follow_from_them():
    stages = make_stages(2, (0.25, 0.0))
    assert [s.sigma_end for s in stages] == [0.25, 0]
    assert stages[1].sigma_start == pytest.approx(0.4)  # 2 * 0.25 / 1.25


def test_ends_of_another_number_of_stages_are_refused():
    with pytest.raises(ValueError, match="3 stages need 3 values"):
        make_stages(3, (0.5, 0.0))
