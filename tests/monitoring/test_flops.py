from nami_jax.config import SampleConfig, choices
from nami_jax.monitoring.flops import EVALUATIONS


def test_every_solver_of_the_config_is_counted():
    assert set(EVALUATIONS) == set(choices(SampleConfig, "solver"))
