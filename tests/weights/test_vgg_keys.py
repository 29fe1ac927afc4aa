import numpy as np
import pytest

from nami_jax.models.vgg import BLOCKS
from nami_jax.weights import WeightsError
from nami_jax.weights.vgg_keys import load_vgg


def numbered(num_blocks: int) -> dict[str, np.ndarray]:
    """Returns weights of the first blocks, those of one tensor all the same number."""
    tensors, inputs = {}, 3
    for i, widths in enumerate(BLOCKS[:num_blocks], start=1):
        for j, width in enumerate(widths, start=1):
            shapes = {"weight": (width, inputs, 3, 3), "bias": (width,)}
            for name, shape in shapes.items():
                tensors[f"block{i}_conv{j}.{name}"] = np.full(shape, len(tensors), np.float32)
            inputs = width
    return tensors


def test_every_tensor_lands_in_its_layer():
    convs = [conv for block in load_vgg(3, numbered(3)).blocks for conv in block]
    found = [np.unique(leaf[...]).tolist() for conv in convs for leaf in (conv.kernel, conv.bias)]
    assert found == [[i] for i in range(14)]


def test_weights_of_more_blocks_than_asked_for_are_listed():
    with pytest.raises(WeightsError, match=r"unexpected  block2_conv1\.bias"):
        load_vgg(1, numbered(2))
