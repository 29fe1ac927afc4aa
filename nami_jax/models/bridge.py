"""BridgeFlow, the learned jump of the released NAMI: a scale and a shift for each transition between stages."""

import jax
import jax.numpy as jnp
from flax import nnx


class Bridge(nnx.Module):
    """Turns upsampled latents of one stage into the next stage's start: s_k U(x) + B_k.

    The shifts have the latents' full size, so a bridge fits one image size only. Source: NAMI, CVPR 2026 version.
    """

    def __init__(self, shapes: list[tuple[int, int, int]]):
        """Builds the identity.

        Args:
            shapes: (H, W, C) of the latents of stage 2..K.
        """
        self.scales = nnx.Param(jnp.ones(len(shapes)))
        self.shifts = nnx.List([nnx.Param(jnp.zeros(shape)) for shape in shapes])

    def __call__(self, upsampled: jax.Array, *, stage: int) -> jax.Array:
        """Maps upsampled latents (B, H, W, C) of stage k-1 to the start of stage k, `stage` in 2..K."""
        return self.scales[stage - 2] * upsampled + self.shifts[stage - 2][None]
