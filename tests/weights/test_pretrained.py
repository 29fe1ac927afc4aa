import dataclasses

import pytest

from nami_jax.config import ConfigError
from nami_jax.weights import WeightsError
from nami_jax.weights.bert_keys import BERT, read_bert_config
from nami_jax.weights.pretrained import read_sizes
from tests.support.golden_networks import golden_bert


@dataclasses.dataclass(frozen=True)
class Sizes:
    width: int
    heads: int = 2
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ConfigError("odd")


def test_shapes_are_those_of_the_tensors_that_are_exported():
    config, weights, _ = golden_bert()
    cfg = read_bert_config(config)
    exported = BERT.export(BERT.load(cfg, weights))
    assert BERT.shapes(cfg) == {key: tensor.shape for key, tensor in exported.items()}


def test_sizes_are_picked_out_and_the_rest_is_ignored():
    assert read_sizes(Sizes, {"width": 4, "epsilon": 1, "author": "x"}, "network") == Sizes(4, epsilon=1)


@pytest.mark.parametrize("width", [0, -2, 2.0, True, "2", None])
def test_what_is_no_positive_integer_is_no_size(width):
    with pytest.raises(WeightsError, match=r"width = .*: must be an integer above 0\. Use the checkpoint's own"):
        read_sizes(Sizes, {"width": width}, "network")


@pytest.mark.parametrize("epsilon", [0.0, float("nan"), float("inf"), "1e-6", None])
def test_what_is_no_positive_number_is_refused(epsilon):
    with pytest.raises(WeightsError, match=r"epsilon = .*: must be a number above 0"):
        read_sizes(Sizes, {"width": 2, "epsilon": epsilon}, "network")


def test_sizes_that_do_not_go_together_are_an_error_of_the_weights():
    with pytest.raises(WeightsError, match=r"^odd$"):
        read_sizes(Sizes, {"width": 3}, "network")
