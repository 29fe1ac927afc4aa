from nami_jax.data.phases import phase_bounds, phase_of


def test_phases_begin_at_their_share_of_the_steps():
    assert phase_bounds(10, (0.0, 0.25, 0.6)) == (0, 2, 6, 10)


def test_a_step_belongs_to_the_last_phase_that_has_begun():
    bounds = phase_bounds(10, (0.0, 0.3, 0.6))
    assert [phase_of(step, bounds) for step in range(10)] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]


def test_phases_too_short_for_a_step_are_skipped():
    assert [phase_of(step, phase_bounds(2, (0.0, 0.1, 0.2))) for step in range(2)] == [2, 2]
