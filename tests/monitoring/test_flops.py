from nami_jax.config import SampleConfig
from nami_jax.flow.stages import make_stages
from nami_jax.monitoring.flops import image_passes


def test_an_unguided_step_is_half_a_guided_one_and_a_step_left_out_is_none():
    def passes(**changes):
        return image_passes(make_stages(3), SampleConfig((4, 4, 4), **changes))

    assert passes() == (8, 8, 8)
    assert passes(guidance_scale=1.0) == (4, 4, 4)
    assert passes(guidance_scale=(3.0, 3.0, 1.0)) == (8, 8, 4)
    assert passes(guidance_interval=(0.3, 1.0)) == (8, 8, 5)  # of the last stage's times 0.38, 0.29, ... the first
    assert passes(zero_init_steps=1) == (6, 8, 8)
    for solver, count in (("euler", 8), ("ab2", 8), ("heun", 16), ("midpoint", 16)):
        assert passes(solver=solver) == (count,) * 3
