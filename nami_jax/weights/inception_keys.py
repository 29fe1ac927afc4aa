"""Weights of FID's Inception-v3 by the names that its PyTorch ports share."""

from collections.abc import Mapping

from flax import nnx

from nami_jax.models.inception import BLOCKS, Inception
from nami_jax.weights import Shardings, Tensor, load_module, slots_by_name

NAMES = {
    "conv_1a": "Conv2d_1a_3x3",
    "conv_2a": "Conv2d_2a_3x3",
    "conv_2b": "Conv2d_2b_3x3",
    "conv_3b": "Conv2d_3b_1x1",
    "conv_4a": "Conv2d_4a_3x3",
    "mean": "running_mean",
    "var": "running_var",
} | {name: name.capitalize() for name in BLOCKS}
UNUSED_PREFIXES = ("fc.", "AuxLogits.")  # the classifiers


def load_inception(tensors: Mapping[str, Tensor], shardings: Shardings | None = None) -> Inception:
    """Builds the network around given weights.

    Args:
        tensors: "Conv2d_1a_3x3.conv.weight" (O, I, 3, 3), "Conv2d_1a_3x3.bn.running_mean" (O,), ...
        shardings: abstract parameters -> shardings; None puts all on the first device.

    Raises:
        WeightsError: keys are missing, unexpected or of the wrong shape; all are listed.
    """
    return load_module(
        lambda: Inception(rngs=nnx.Rngs(0)),
        lambda abstract: slots_by_name(abstract, NAMES),
        tensors,
        shardings=shardings,
        unused=[k for k in tensors if k.startswith(UNUSED_PREFIXES) or k.endswith(".num_batches_tracked")],
    )
