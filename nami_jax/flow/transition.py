"""The jump from the end of one stage to the start of the next, twice as large: in closed form, or learned."""

import dataclasses
from typing import Protocol

import jax

from nami_jax.flow.interpolant import end_before, stage_ends
from nami_jax.flow.resize import upsample, zero_block_mean
from nami_jax.flow.stages import Stage, renoised_sigma


class Transition(Protocol):
    """A jump between stages; as a pytree, it is an argument of compiled functions."""

    @property
    def share(self) -> float:
        """How much of `block_noise` it adds, in [0, 1]."""
        ...

    def __call__(self, x: jax.Array, noise: jax.Array | None, before: Stage) -> jax.Array:
        """Takes a stage's result to the start of the next stage.

        Args:
            x: (B, H, W, C) latents at the end of the stage before.
            noise: (B, 2H, 2W, C) standard normal, if its `share` is not 0: fresh in sampling, in training the noise of
                the path, of which x has the block means.
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

    @property
    def share(self) -> float:
        """All of it is added."""
        return 1.0

    def __call__(self, x: jax.Array, noise: jax.Array | None, before: Stage) -> jax.Array:
        """Takes x (B, H, W, C) and noise (B, 2H, 2W, C) to (B, 2H, 2W, C)."""
        return upsample(x) / (1 + before.sigma_end) + block_noise(noise, before)

    def require_size(self, height: int, width: int) -> None:
        """Accepts any size."""


def block_noise(noise: jax.Array | None, before: Stage) -> jax.Array:
    """Returns the noise inside 2x2 blocks that the start of a stage has, and the end of the one before had not.

    Args:
        noise: (B, 2H, 2W, C) standard normal.
        before: the stage before.

    Returns:
        2e/(1+e) (z - U(pool(z))), (B, 2H, 2W, C), of zero block mean.
    """
    assert noise is not None, "this jump adds noise"
    return renoised_sigma(before.sigma_end) * zero_block_mean(noise)


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

    That alone, which is the released jump, is constant in 2x2 blocks up to the bridge's shift, and what a deterministic
    solver makes of it can only be the mean of all fine parts that go with the coarse one. Any `share` of the renoising
    noise keeps their distribution (`benchmarks.gaussian_flow`); this is ours, not the paper's. A share of 1 after the
    bridge x / (1 + e) is renoising. The noise is independent of x, so that the best bridge does not depend on it.

    Attributes:
        bridge: a pytree.
        share: q in [0, 1], how much of `block_noise` is added.
    """

    bridge: LearnedJump
    share: float = dataclasses.field(default=0.0, metadata={"static": True})

    def __call__(self, x: jax.Array, noise: jax.Array | None, before: Stage) -> jax.Array:
        """Takes x (B, H, W, C) and noise (B, 2H, 2W, C), which is not used without a share, to (B, 2H, 2W, C)."""
        start = self.bridge(upsample(x), stage=before.number + 1)
        return start + self.share * block_noise(noise, before) if self.share else start

    def require_size(self, height: int, width: int) -> None:
        """Raises `ConfigError` if the bridge is for another size of the last stage's latents."""
        self.bridge.require_size(height, width)


def start_after(
    transition: Transition, before: Stage, latents: jax.Array, noise: jax.Array, coarse: jax.Array | None = None
) -> jax.Array:
    """Returns where a stage's path starts after a transition.

    Args:
        transition: from the stage before into this one.
        before: the stage before.
        latents: (B, H, W, C) clean latents at this stage's size.
        noise: (B, H, W, C) standard normal, of both stages.
        coarse: (B, H/2, W/2, C) the stage before's clean latents, as for `stage_ends`.

    Returns:
        (B, H, W, C).
    """
    return transition(end_before(latents, noise, before.sigma_end, coarse), noise, before)


def path_ends(
    transition: Transition,
    before: Stage | None,
    stage: Stage,
    latents: jax.Array,
    noise: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Returns the two ends of the path that sampling follows if it ends in known latents.

    They are those of `stage_ends`, but for the start, which is where the transition leads.

    Args:
        transition: from the stage before.
        before: the stage before; None for the first.
        stage: the stage k.
        latents: (B, H, W, C) clean latents at its size.
        noise: (B, H, W, C) standard normal.
    """
    x_start, x_end = stage_ends(latents, noise, stage)
    return (x_start if before is None else start_after(transition, before, latents, noise)), x_end


def make_transition(bridge: LearnedJump | None, share: float = 0.0) -> Transition:
    """Returns the jump through `bridge` with a share of the noise, or by renoising without a bridge."""
    return Renoise() if bridge is None else Bridged(bridge, share)
