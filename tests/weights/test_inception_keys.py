from typing import Any

import numpy as np
import pytest
from flax import nnx

from nami_jax.models.inception import Inception
from nami_jax.weights import WeightsError, expected_shapes, slots_by_name
from nami_jax.weights.inception_keys import NAMES, load_inception


@pytest.fixture(scope="module")
def shapes() -> dict[str, tuple[int, ...]]:
    abstract = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: Inception(rngs=nnx.Rngs(0)))))
    return expected_shapes(slots_by_name(abstract, NAMES), abstract)


def test_names_and_shapes_are_those_of_the_ports(shapes):
    assert len(shapes) == 94 * 5  # convolutions, each with the four tensors of its batch norm
    assert shapes["Conv2d_1a_3x3.conv.weight"] == (32, 3, 3, 3)
    assert shapes["Mixed_5b.branch5x5_2.conv.weight"] == (64, 48, 5, 5)
    assert shapes["Mixed_6c.branch7x7dbl_4.conv.weight"] == (160, 160, 7, 1)
    assert shapes["Mixed_7c.branch3x3dbl_3b.conv.weight"] == (384, 384, 3, 1)
    assert shapes["Mixed_7c.branch_pool.bn.running_var"] == (192,)


def test_every_tensor_lands_in_its_layer(shapes):
    numbers = {key: i for i, key in enumerate(shapes)}
    tensors = {key: np.broadcast_to(np.float32(numbers[key]), shape) for key, shape in shapes.items()}
    unused = {"fc.weight": np.zeros((1008, 2048), np.float32), "Conv2d_1a_3x3.bn.num_batches_tracked": np.zeros(())}
    model: Any = load_inception(tensors | unused)
    assert model.mixed_6b.branch7x7_2.bn.var[0] == numbers["Mixed_6b.branch7x7_2.bn.running_var"]
    assert model.conv_3b.conv.kernel[0, 0, 0, 0] == numbers["Conv2d_3b_1x1.conv.weight"]
    assert model.mixed_7b.branch_pool.bn.scale[5] == numbers["Mixed_7b.branch_pool.bn.weight"]


def test_weights_of_another_inception_are_listed(shapes):
    tensors = {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
    tensors["Mixed_5b.branch1x1.conv.weight"] = np.zeros((65, 192, 1, 1), np.float32)
    with pytest.raises(WeightsError, match=r"branch1x1\.conv\.weight: \(65, 192, 1, 1\), the network has \(64, 192, 1"):
        load_inception(tensors)
