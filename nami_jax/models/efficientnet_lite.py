"""EfficientNet-Lite: images in, one feature vector per image out. Frozen, for comparing sets of images.

Tan and Le, arXiv 1905.11946, without squeeze and excitation and with ReLU6 in place of swish, as released for small
devices.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

EPSILON = 1e-3  # of every batch norm
MEAN, SCALE = 127.0, 128.0  # levels of 0..255; what the weights were trained with


class BlockGroup(NamedTuple):
    """Blocks of one width."""

    repeats: int
    kernel: int  # side of the depthwise convolutions
    stride: int  # of the first block's; the others have 1
    expand: int  # width inside a block over that of its input
    channels: int


LITE0 = (
    BlockGroup(1, 3, 1, 1, 16),
    BlockGroup(2, 3, 2, 6, 24),
    BlockGroup(2, 5, 2, 6, 40),
    BlockGroup(3, 3, 2, 6, 80),
    BlockGroup(3, 5, 1, 6, 112),
    BlockGroup(4, 5, 2, 6, 192),
    BlockGroup(1, 3, 1, 6, 320),
)
STEM, HEAD = 32, 1280  # channels of the first and of the last convolution
SIDE = 224  # of the images, pixels


class DepthwiseConv(nnx.Module):
    """Filters each channel by itself, as a sum of shifted inputs.

    Sides are divided by `stride` and rounded up, with zeros around, as TensorFlow's "SAME" does.
    """

    def __init__(self, channels: int, kernel: int, stride: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(init(rngs.params(), (kernel, kernel, 1, channels)))
        self.stride = stride

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps (B, H, W, C) to (B, H/stride, W/stride, C)."""
        kernel, stride = self.kernel[...], self.stride
        taps = kernel.shape[0]
        outputs = [-(-side // stride) for side in images.shape[1:3]]
        more = [max((out - 1) * stride + taps - side, 0) for out, side in zip(outputs, images.shape[1:3], strict=True)]
        padded = jnp.pad(images, ((0, 0), *((n // 2, n - n // 2) for n in more), (0, 0)))
        rows, columns = ((out - 1) * stride + 1 for out in outputs)
        out = jnp.zeros((), images.dtype)
        for i in range(taps):
            for j in range(taps):
                out = out + padded[:, i : i + rows : stride, j : j + columns : stride] * kernel[i, j][None, None]
        return out


class Block(nnx.Module):
    """Widens, filters each channel by itself, narrows, and adds the input where it fits.

    Sandler et al., arXiv 1801.04381, fig. 3.
    """

    def __init__(self, inputs: int, stage: BlockGroup, stride: int, *, rngs: nnx.Rngs):
        width = inputs * stage.expand
        self.adds_input = stride == 1 and inputs == stage.channels
        if stage.expand != 1:
            self.expand_conv = convolution(inputs, width, 1, rngs=rngs)
            self.bn0 = batch_norm(width, rngs)
        self.depthwise_conv = DepthwiseConv(width, stage.kernel, stride, rngs=rngs)
        self.bn1 = batch_norm(width, rngs)
        self.project_conv = convolution(width, stage.channels, 1, rngs=rngs)
        self.bn2 = batch_norm(stage.channels, rngs)
        self.expands = stage.expand != 1

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps (B, H, W, inputs) to (B, H/stride, W/stride, channels), sides rounded up."""
        states = inputs
        if self.expands:
            states = jax.nn.relu6(self.bn0(self.expand_conv(states)))
        states = jax.nn.relu6(self.bn1(self.depthwise_conv(states)))
        states = self.bn2(self.project_conv(states))
        return states + inputs if self.adds_input else states


class EfficientNetLite(nnx.Module):
    """A stem, blocks, a head and a mean over positions. The classifier behind it is left out."""

    def __init__(self, stages: Sequence[BlockGroup] = LITE0, stem: int = STEM, head: int = HEAD, *, rngs: nnx.Rngs):
        self.conv_stem = convolution(3, stem, 3, 2, rngs=rngs)
        self.bn0 = batch_norm(stem, rngs)
        blocks, inputs = [], stem
        for stage in stages:
            for i in range(stage.repeats):
                blocks.append(Block(inputs, stage, stage.stride if i == 0 else 1, rngs=rngs))
                inputs = stage.channels
        self.blocks = nnx.List(blocks)
        self.conv_head = convolution(inputs, head, 1, rngs=rngs)
        self.bn1 = batch_norm(head, rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps images (B, H, W, 3), levels 0..255, to the features before the classifier, (B, head) float32."""
        states = (images.astype(jnp.float32) - MEAN) / SCALE
        states = jax.nn.relu6(self.bn0(self.conv_stem(states)))
        for block in self.blocks:
            states = block(states)
        states = jax.nn.relu6(self.bn1(self.conv_head(states)))
        return states.mean((1, 2))


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, *, rngs: nnx.Rngs) -> nnx.Conv:
    """Makes a convolution without bias; sides are divided by `stride` and rounded up, with zeros around."""
    return nnx.Conv(inputs, outputs, (kernel, kernel), (stride, stride), use_bias=False, rngs=rngs)


def batch_norm(channels: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    """Makes a batch norm by the statistics of training."""
    return nnx.BatchNorm(channels, use_running_average=True, epsilon=EPSILON, rngs=rngs)
