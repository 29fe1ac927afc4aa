"""Weights of VGG16's first blocks, by the names that Keras gives its layers: `block1_conv1`, `block1_conv2`, ..."""

from collections.abc import Mapping
from typing import Any

from flax import nnx

from nami_jax.models.vgg import Vgg
from nami_jax.weights import Slot, Tensor, load_module


def load_vgg(num_blocks: int, tensors: Mapping[str, Tensor]) -> Vgg:
    """Builds the first blocks around given weights.

    Args:
        num_blocks: 1 to 5.
        tensors: "block1_conv1.weight" (O, I, 3, 3), "block1_conv1.bias" (O,), ... of exactly these blocks.

    Raises:
        WeightsError: keys are missing, unexpected or of the wrong shape; all are listed.
    """
    return load_module(lambda: Vgg(num_blocks, rngs=nnx.Rngs(0)), _slots, tensors)


def _slots(abstract: Any) -> dict[str, Slot]:
    leaves = {"kernel": "weight", "bias": "bias"}
    return {
        f"block{i + 1}_conv{j + 1}.{released}": Slot(("blocks", i, j, leaf))
        for i, block in abstract["blocks"].items()
        for j in block
        for leaf, released in leaves.items()
    }
