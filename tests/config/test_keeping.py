import pytest

from nami_jax.config.keeping import most_kept
from tests.support.sizes import make_config


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        ({"keep_checkpoints": 2, "keep_best": 1}, 4),
        ({"keep_checkpoints": 1, "keep_best": 0}, 3),
        ({"keep_checkpoints": 3, "keep_best": 2, "keep_every": 5}, 3 + 2 + 12 // 5 + 1),
    ],
)
def test_a_run_keeps_at_most_the_newest_the_best_the_regular_and_what_it_was_begun_from(fields, most):
    assert most_kept(make_config(train=fields).train) == most
