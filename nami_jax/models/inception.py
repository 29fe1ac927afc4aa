"""Inception-v3 as the Fréchet Inception distance uses it: images in, 2,048 features per image out. Frozen.

Szegedy et al., arXiv 1512.00567, in the TensorFlow graph of 2015-12-05 that Heusel et al., arXiv 1706.08500, took. That
graph differs from later ones: it resizes by TensorFlow 1's bilinear filter, its means leave out the zeros around an
image, and its last block takes a maximum where the one before takes a mean.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

EPSILON = 1e-3  # of every batch norm
SIDE = 299  # of the images, pixels
FEATURES = 2048


class Conv(NamedTuple):
    """Sizes of a convolution. One of stride 1 keeps the sides by zeros around; one of stride 2 has none around."""

    channels: int
    kernel: tuple[int, int]
    stride: int = 1


class Mix(NamedTuple):
    """Sizes of a block: branches side by side, of convolutions one after another."""

    convs: Mapping[str, Conv]  # in the order of the branches; names that end in a and b take the same input
    pool: Literal["mean", "max", "halve"]  # of the last branch, 3x3; "halve": the maximum, with stride 2


def _chain(name: str, *convs: Conv) -> dict[str, Conv]:
    return {f"{name}_{i + 1}": conv for i, conv in enumerate(convs)}


ONE, THREE, FIVE, ROW, COLUMN = (1, 1), (3, 3), (5, 5), (1, 7), (7, 1)


def _a(pooled: int) -> Mix:
    double = (Conv(64, ONE), Conv(96, THREE), Conv(96, THREE))
    return Mix(
        {"branch1x1": Conv(64, ONE)}
        | _chain("branch5x5", Conv(48, ONE), Conv(64, FIVE))
        | _chain("branch3x3dbl", *double)
        | {"branch_pool": Conv(pooled, ONE)},
        "mean",
    )


def _c(width: int) -> Mix:
    return Mix(
        {"branch1x1": Conv(192, ONE)}
        | _chain("branch7x7", Conv(width, ONE), Conv(width, ROW), Conv(192, COLUMN))
        | _chain("branch7x7dbl", Conv(width, ONE), *[Conv(width, k) for k in (COLUMN, ROW, COLUMN)], Conv(192, ROW))
        | {"branch_pool": Conv(192, ONE)},
        "mean",
    )


def _e(pool: Literal["mean", "max"]) -> Mix:
    row, column = Conv(384, (1, 3)), Conv(384, (3, 1))
    return Mix(
        {"branch1x1": Conv(320, ONE)}
        | {"branch3x3_1": Conv(384, ONE), "branch3x3_2a": row, "branch3x3_2b": column}
        | _chain("branch3x3dbl", Conv(448, ONE), Conv(384, THREE))
        | {"branch3x3dbl_3a": row, "branch3x3dbl_3b": column}
        | {"branch_pool": Conv(192, ONE)},
        pool,
    )


B = Mix(
    {"branch3x3": Conv(384, THREE, 2)} | _chain("branch3x3dbl", Conv(64, ONE), Conv(96, THREE), Conv(96, THREE, 2)),
    "halve",
)
D = Mix(
    _chain("branch3x3", Conv(192, ONE), Conv(320, THREE, 2))
    | _chain("branch7x7x3", Conv(192, ONE), Conv(192, ROW), Conv(192, COLUMN), Conv(192, THREE, 2)),
    "halve",
)
STEM = {
    "conv_1a": Conv(32, THREE, 2),
    "conv_2a": Conv(32, THREE),
    "conv_2b": Conv(64, THREE),
    "conv_3b": Conv(80, ONE),
    "conv_4a": Conv(192, THREE),
}
UNPADDED, HALVED = ("conv_2a", "conv_4a"), ("conv_2b", "conv_4a")  # no zeros around; a maximum of 3x3 follows
BLOCKS = {
    "mixed_5b": _a(32),
    "mixed_5c": _a(64),
    "mixed_5d": _a(64),
    "mixed_6a": B,
    "mixed_6b": _c(128),
    "mixed_6c": _c(160),
    "mixed_6d": _c(160),
    "mixed_6e": _c(192),
    "mixed_7a": D,
    "mixed_7b": _e("mean"),
    "mixed_7c": _e("max"),
}


class ConvNorm(nnx.Module):
    """A convolution without bias, a batch norm by the statistics of training, and a ReLU."""

    def __init__(self, inputs: int, sizes: Conv, *, padded: bool = True, rngs: nnx.Rngs):
        padding = "SAME" if padded and sizes.stride == 1 else "VALID"
        self.conv = nnx.Conv(
            inputs, sizes.channels, sizes.kernel, sizes.stride, padding=padding, use_bias=False, rngs=rngs
        )
        self.bn = nnx.BatchNorm(sizes.channels, use_running_average=True, epsilon=EPSILON, rngs=rngs)

    def __call__(self, states: jax.Array) -> jax.Array:
        """Maps (B, H, W, inputs) to (B, H', W', channels)."""
        return jax.nn.relu(self.bn(self.conv(states)))


class MixedBlock(nnx.Module):
    """Branches of convolutions side by side, and one that pools; their channels one after another."""

    def __init__(self, inputs: int, mix: Mix, *, rngs: nnx.Rngs):
        self.branches, self.pool = _branches(mix.convs), mix.pool
        self.channels = 0 if "branch_pool" in mix.convs else inputs
        for branch in self.branches:
            width = inputs
            for names in branch:
                for name in names:
                    setattr(self, name, ConvNorm(width, mix.convs[name], rngs=rngs))
                width = sum(mix.convs[name].channels for name in names)
            self.channels += width

    def __call__(self, states: jax.Array) -> jax.Array:
        """Maps (B, H, W, inputs) to (B, H', W', channels); sides are halved where the pooling is "halve"."""
        outputs = []
        for branch in self.branches:
            out = self._pooled(states) if branch == (("branch_pool",),) else states
            for names in branch:
                out = jnp.concatenate([getattr(self, name)(out) for name in names], axis=-1)
            outputs.append(out)
        if self.pool == "halve":
            outputs.append(self._pooled(states))
        return jnp.concatenate(outputs, axis=-1)

    def _pooled(self, states: jax.Array) -> jax.Array:
        if self.pool == "mean":
            return nnx.avg_pool(states, (3, 3), (1, 1), padding="SAME", count_include_pad=False)
        return halve(states) if self.pool == "halve" else nnx.max_pool(states, (3, 3), (1, 1), padding="SAME")


def _branches(names: Mapping[str, Conv]) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """Sorts a block's convolutions into branches of steps, each of one convolution or of two that share their input."""
    branches: dict[str, list[tuple[str, ...]]] = {}
    for name in names:
        branch, _, step = name.partition("_") if name != "branch_pool" else (name, "", "")
        steps = branches.setdefault(branch, [])
        if step.endswith("b"):
            steps[-1] += (name,)
        else:
            steps.append((name,))
    return tuple(map(tuple, branches.values()))


class Inception(nnx.Module):
    """Five convolutions, eleven blocks and a mean over positions. The classifier behind it is left out."""

    def __init__(self, *, rngs: nnx.Rngs):
        inputs = 3
        for name, sizes in STEM.items():
            setattr(self, name, ConvNorm(inputs, sizes, padded=name not in UNPADDED, rngs=rngs))
            inputs = sizes.channels
        for name, mix in BLOCKS.items():
            block = MixedBlock(inputs, mix, rngs=rngs)
            setattr(self, name, block)
            inputs = block.channels

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps images (B, H, W, 3), levels 0..255 of any size, to the pooled features (B, 2048), float32."""
        states = (resize_as_tensorflow1(images.astype(jnp.float32), SIDE) - 128) / 128
        for name in STEM:
            states = getattr(self, name)(states)
            states = halve(states) if name in HALVED else states
        for name in BLOCKS:
            states = getattr(self, name)(states)
        return states.mean((1, 2))


def halve(states: jax.Array) -> jax.Array:
    """Takes the maximum of each 3x3, in steps of 2, within (B, H, W, C)."""
    return nnx.max_pool(states, (3, 3), (2, 2))


def resize_as_tensorflow1(images: jax.Array, side: int) -> jax.Array:
    """Resizes (B, H, W, C) to (B, side, side, C) by bilinear interpolation of points, without antialiasing.

    The pixel i is taken from i H / side, where others take it from (i + 1/2) H / side - 1/2: images move by up to half
    a pixel. Every FID that was published with the original's weights has been measured so.
    """
    for axis in (2, 1):
        size = images.shape[axis]
        place = np.arange(side, dtype=np.float32) * np.float32(size / side)
        low = place.astype(np.int32)
        shares = jnp.asarray(place - low).reshape([-1 if i == axis else 1 for i in range(4)])
        first, second = (jnp.take(images, np.minimum(i, size - 1), axis=axis) for i in (low, low + 1))
        images = first + (second - first) * shares
    return images
