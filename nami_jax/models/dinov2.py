"""DINOv2: images in, the state of the class token out. Frozen, for comparing sets of images.

Oquab et al., arXiv 2304.07193. Sizes and weights are those of a `Dinov2Model` in the Hugging Face layout.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nami_jax.config import Settings, require
from nami_jax.config.settings import Entries, Epsilon, Layers, Side, Width, settings
from nami_jax.models.layers import affine_norm
from nami_jax.models.vision_transformer import PatchEmbedding, PreNormLayer, exact_gelu, normalise, with_first

TAKE_CONFIG = "Use the checkpoint's own config.json"
SIDE = 224  # of the images, pixels, where the network is used for a Fréchet distance; it was trained at `image_size`
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
OFFSET = 0.1  # patches: what the original adds to the new side of its position table when it resizes that


@settings(remedy=TAKE_CONFIG)
class Dinov2Config(Settings):
    """Sizes of a DINOv2, under the names of the released config.json."""

    hidden_size: Width = 768  # D
    num_hidden_layers: Layers = 12
    num_attention_heads: Width = 12
    mlp_ratio: Entries = 4
    image_size: Side = 224  # of the images it was trained on, pixels
    patch_size: Width = 14  # pixels
    layer_norm_eps: Epsilon = 1e-6

    def __post_init__(self) -> None:
        for name, factor in (("hidden_size", "num_attention_heads"), ("image_size", "patch_size")):
            require(
                getattr(self, name) % getattr(self, factor) == 0,
                field=name,
                value=getattr(self, name),
                rule=f"must be a multiple of {factor} = {getattr(self, factor)}",
                remedy=f"{TAKE_CONFIG} for both",
            )


class Dinov2(nnx.Module):
    """Patches, a class token and positions, then layers and a last norm."""

    def __init__(self, cfg: Dinov2Config, *, dtype: jax.typing.DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.cfg, width = cfg, cfg.hidden_size
        self.patches = PatchEmbedding(cfg.patch_size, width, True, rngs=rngs)
        self.cls_token = nnx.Param(jnp.zeros(width))
        self.positions = nnx.Embed((cfg.image_size // cfg.patch_size) ** 2 + 1, width, rngs=rngs)
        hidden, heads, epsilon = cfg.mlp_ratio * width, cfg.num_attention_heads, cfg.layer_norm_eps
        self.layers = nnx.List(
            [
                PreNormLayer(width, hidden, heads, epsilon, exact_gelu, True, rngs=rngs)
                for _ in range(cfg.num_hidden_layers)
            ]
        )
        self.final_norm = affine_norm(width, epsilon, rngs)

    def __call__(self, images: jax.Array, offset: float = OFFSET) -> jax.Array:
        """Maps images (B, S, S, 3), levels 0..255, S a multiple of the patch, to features (B, D) float32.

        `offset` as `resize_positions` takes it; the release in the Hugging Face layout is run with 0 by its own code.
        """
        tokens = self.patches(normalise(images, MEAN, DEVIATION))
        table = resize_positions(self.positions.embedding[...], images.shape[1] // self.cfg.patch_size, offset)
        states = with_first(self.cls_token[...], tokens) + table[None]
        for layer in self.layers:
            states = layer(states)
        return self.final_norm(states[:, 0])


def resize_positions(table: jax.Array, side: int, offset: float) -> jax.Array:
    """Resizes the patches' positions to another number of patches, by bicubic interpolation.

    Args:
        table: (1 + M², D), the class token's first.
        side: patches on a side of the images, N.
        offset: added to N where the distance of two of them is M / N. The original's 0.1 was meant against rounding; it
            shifts the places, and features measured with it differ from those without.

    Returns:
        (1 + N², D), `table` itself where N = M.
    """
    trained = round((len(table) - 1) ** 0.5)
    if side == trained:
        return table
    weights = jnp.asarray(bicubic_weights(trained, side, trained / (side + offset)))
    grid = table[1:].reshape(trained, trained, -1)
    grid = jnp.einsum("im,jn,mnd->ijd", weights, weights, grid, precision="highest")
    return jnp.concatenate([table[:1], grid.reshape(side * side, -1)])


def bicubic_weights(size: int, new: int, step: float) -> np.ndarray:
    """Returns how much each of `size` points counts for each of `new` ones, (new, size) float32.

    PyTorch's filter: Keys' cubic convolution with a = -0.75, the outermost points repeated. Keys, IEEE TASSP 29, 1981.
    """
    a, weights = -0.75, np.zeros((new, size))
    for row in range(new):
        place = (row + 0.5) * step - 0.5
        first = int(np.floor(place))
        for tap in range(-1, 3):
            x = abs(place - first - tap)
            near = (a + 2) * x**3 - (a + 3) * x**2 + 1
            far = a * (x**3 - 5 * x**2 + 8 * x - 4)
            weights[row, np.clip(first + tap, 0, size - 1)] += near if x <= 1 else far
    return weights.astype(np.float32)
