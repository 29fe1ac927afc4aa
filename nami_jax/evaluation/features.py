"""Pictures to feature vectors, by the networks that metrics are named after. Before it: pictures; after it: metrics.

EfficientNet-Lite0's weights come with a package.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from PIL import Image

from nami_jax.config import require
from nami_jax.models import efficientnet_lite
from nami_jax.weights.efficientnet_lite_keys import efficientnet_lite0_file, load_efficientnet_lite
from nami_jax.weights.torch_files import read_torch_file

NAMES = ("efficientnet_lite0",)
BATCH = 32  # pictures at once


@dataclasses.dataclass(frozen=True)
class FeatureNetwork:
    """A frozen network that describes pictures by vectors.

    Attributes:
        name: which it is, one of `NAMES`.
        size: features of a picture.
        prepare: pictures (B, H, W, 3) uint8 -> what the network takes, on the host.
        network: jitted, what `prepare` returns -> (B, size) float32.
    """

    name: str
    size: int
    prepare: Callable[[np.ndarray], np.ndarray]
    network: Callable[[np.ndarray], Any]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Maps pictures (B, H, W, 3) uint8 of any size to features (B, size) float32, batch by batch.

        Raises:
            ValueError: the array is of another shape or type.
        """
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            raise ValueError(f"images are {images.dtype} of shape {images.shape}: need uint8, (B, H, W, 3).")
        features = np.zeros((len(images), self.size), np.float32)
        for start in range(0, len(images), BATCH):
            batch = self.prepare(images[start : start + BATCH])
            count = len(batch)
            batch = np.concatenate([batch, np.zeros((BATCH - count, *batch.shape[1:]), batch.dtype)])
            features[start : start + count] = np.asarray(self.network(batch))[:count]
        return features


def load_features(name: str, folder: str | None = None) -> FeatureNetwork:
    """Loads a feature network.

    Args:
        name: one of `NAMES`.
        folder: the user's own weights; None for EfficientNet-Lite0, whose package is installed.

    Raises:
        ConfigError: the name is unknown, or a folder is missing or given in vain.
        ModuleNotFoundError: the package with EfficientNet-Lite0's weights is not installed.
        WeightsError: weights are damaged or of another network.
    """
    require(name in NAMES, field="name", value=name, rule="is no feature network", remedy=f"Use {' or '.join(NAMES)}")
    require(
        folder is None,
        field="folder",
        value=folder,
        rule=f"{name} has its weights in a package",
        remedy="Give no folder",
    )
    model = load_efficientnet_lite(read_torch_file(efficientnet_lite0_file()), shardings=_here)
    return FeatureNetwork(
        name,
        efficientnet_lite.HEAD,
        lambda images: resize(images, efficientnet_lite.SIDE, Image.Resampling.BICUBIC),
        _jitted(model),
    )


def resize(images: np.ndarray, side: int, method: Image.Resampling) -> np.ndarray:
    """Resizes pictures (B, H, W, 3) uint8 to (B, side, side, 3) uint8, by Pillow, which antialiases."""
    if images.shape[1:3] == (side, side):
        return images
    return np.stack([np.asarray(Image.fromarray(image).resize((side, side), method)) for image in images])


def _here(abstract: Any) -> Any:
    """Puts all parameters on this process's first device."""
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda _: device, abstract)


def _jitted(model: nnx.Module) -> Callable[[np.ndarray], jax.Array]:
    graphdef, state = nnx.split(model)
    run = jax.jit(lambda state, images: nnx.merge(graphdef, state)(images))  # pyright: ignore[reportCallIssue]
    return lambda images: run(state, images)
