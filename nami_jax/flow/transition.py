"""The jump from the end of one stage to the start of the next, twice as large: in closed form, or learned."""

import dataclasses
from typing import ClassVar, Protocol

import jax

from nami_jax.flow.resize import upsample, zero_block_mean
from nami_jax.flow.stages import Stage, renoised_sigma


class Transition(Protocol):
    """A jump between stages; as a pytree, it is an argument of compiled functions."""

    needs_noise: ClassVar[bool]  # whether it adds noise of its own

    def __call__(self, x: jax.Array, noise: jax.Array | None, before: Stage) -> jax.Array:
        """Takes a stage's result to the start of the next stage.

        Args:
            x: (B, H, W, C) latents at the end of the stage before.
            noise: (B, 2H, 2W, C) standard normal, if it `needs_noise`.
            before: the stage before.

        Returns:
            (B, 2H, 2W, C).
        """
        ...

    def require_size(self, height: int, width: int) -> None:
        """Raises `ConfigError` if the last stage's latents cannot have that size."""
        ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Renoise:
    """Upsamples a stage's result and adds just the noise that makes its noise white again.

    The upsampled noise already carries the block means, so only noise of zero block mean is added. If x has mean
    (1 - e) D and covariance e^2 I, e = `sigma_end` of the stage before, and noise pooled from the finer grid's, the
    result is distributed as the next stage's training start: mean (1 - sigma_start) U(D), covariance sigma_start^2 I,
    sigma_start = 2e/(1+e).

    Source: Pyramidal Flow Matching, arXiv 2410.05954, sec. 3.2, with the least correlated noise.
    """

    needs_noise: ClassVar[bool] = True

    def __call__(self, x: jax.Array, noise: jax.Array | None, before: Stage) -> jax.Array:
        """Takes x (B, H, W, C) and noise (B, 2H, 2W, C) to (B, 2H, 2W, C)."""
        assert noise is not None, "renoising needs noise"
        e = before.sigma_end
        return upsample(x) / (1 + e) + renoised_sigma(e) * zero_block_mean(noise)

    def require_size(self, height: int, width: int) -> None:
        """Accepts any size."""


class LearnedJump(Protocol):
    """What stands between two stages and was trained: a module of `nami_jax.models.bridge`, for one."""

    def __call__(self, upsampled: jax.Array, *, stage: int) -> jax.Array:
        """Maps upsampled latents (B, H, W, C) of stage k-1 to the start of stage k, `stage` in 2..K."""
        ...

    def require_size(self, height: int, width: int) -> None:
        """Raises `ConfigError` if the last stage's latents cannot have that size."""
        ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bridged:
    """Upsamples a stage's result and passes it through a bridge. Source: NAMI, CVPR 2026 version.

    Attributes:
        bridge: a pytree.
    """

    bridge: LearnedJump
    needs_noise: ClassVar[bool] = False

    def __call__(self, x: jax.Array, noise: jax.Array | None, before: Stage) -> jax.Array:
        """Takes x (B, H, W, C) to (B, 2H, 2W, C); noise is not used."""
        return self.bridge(upsample(x), stage=before.number + 1)

    def require_size(self, height: int, width: int) -> None:
        """Raises `ConfigError` if the bridge is for another size of the last stage's latents."""
        self.bridge.require_size(height, width)


def make_transition(bridge: LearnedJump | None) -> Transition:
    """Returns the jump through `bridge`, or by renoising without one."""
    return Renoise() if bridge is None else Bridged(bridge)
