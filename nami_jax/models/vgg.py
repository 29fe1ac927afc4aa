"""The first convolutions of VGG16: images in, each block's features out. Frozen, for comparing images.

Simonyan and Zisserman, arXiv 1409.1556, configuration D.
"""

import jax
import jax.numpy as jnp
from flax import nnx

BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # channels of the convolutions
MEAN_BGR = (104.00699, 116.66877, 122.67892)  # of ImageNet, levels of 0..255; what the weights were trained with


class Vgg(nnx.Module):
    """The first blocks of VGG16, each of 3x3 convolutions with ReLU; 2x2 maxima are taken between blocks."""

    def __init__(self, num_blocks: int, *, rngs: nnx.Rngs):
        blocks, inputs = [], 3
        for widths in BLOCKS[:num_blocks]:
            convs = []
            for width in widths:
                convs.append(nnx.Conv(inputs, width, (3, 3), rngs=rngs))
                inputs = width
            blocks.append(nnx.List(convs))
        self.blocks = nnx.List(blocks)

    def __call__(self, images: jax.Array) -> tuple[jax.Array, ...]:
        """Maps images (B, H, W, 3), RGB in [-1, 1], to the last activations of each block.

        Returns:
            relu1_2 (B, H, W, 64), relu2_2 (B, H/2, W/2, 128), relu3_3 (B, H/4, W/4, 256), ..., float32; odd sides are
            halved upwards.
        """
        states = (images[..., ::-1] + 1) * 127.5 - jnp.asarray(MEAN_BGR, images.dtype)[None, None, None]
        features = []
        for i, block in enumerate(self.blocks):
            if i:
                states = nnx.max_pool(states, (2, 2), (2, 2), padding="SAME")
            for conv in block:
                states = jax.nn.relu(conv(states))
            features.append(states)
        return tuple(features)
