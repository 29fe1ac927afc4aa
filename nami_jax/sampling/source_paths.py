"""Known pictures in the sampler: the path through the stages that ends in them, to begin on or to be held to."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import einops
import jax
import numpy as np

from nami_jax.flow.interpolant import carried_noise, interpolate
from nami_jax.flow.resize import pool
from nami_jax.flow.stages import Stage
from nami_jax.flow.transition import Transition, path_ends
from nami_jax.models.layout import Layout
from nami_jax.parallel.kept_programs import BoundedJit


class Source(NamedTuple):
    """Latents that are known.

    Attributes:
        latents: (B, H, W, C) clean, of the last stage.
        begin: the global time in (0, 1] from which drawing begins: with the first step that starts there or later.
        mask: (B, H, W, 1) bool, true where latents are drawn; elsewhere they are held to the path. None: all are drawn.
    """

    latents: Any
    begin: float = 1.0
    mask: Any = None

    def rows(self, rows: np.ndarray) -> Self:
        """Returns the sources of some pictures; one source is that of all."""
        latents, mask = (x if x is None else x[rows % len(x)] for x in (self.latents, self.mask))
        return self._replace(latents=latents, mask=mask)


class Held(NamedTuple):
    """What latents are set back to where they are not drawn: a known picture's path through a stage.

    Attributes:
        x_start: (B, H, W, C) where the path begins.
        x_end: (B, H, W, C) where it ends.
        drawn: (B, H, W, 1) bool, true where latents are drawn.
    """

    x_start: Any
    x_end: Any
    drawn: Any

    def after(self, x: jax.Array, tau: jax.Array) -> jax.Array:
        """Returns latents (B, H, W, C) at a local time () with what is not drawn set back to the path."""
        path, _ = interpolate(self.x_start, self.x_end, jax.numpy.broadcast_to(tau, x.shape[:1]))
        return jax.numpy.where(self.drawn, x, path)


class SourcePaths:
    """The paths of sources through the stages, with the noise that a sampler draws for these pictures.

    The noise of a stage is what renoising makes of that of the stage before: outside a mask a jump goes on where the
    path does. Earlier stages have the pooled latents, as in training without latents of their own.
    """

    def __init__(
        self,
        source: Source,
        transition: Transition,
        stages: Sequence[Stage],
        noise: Callable[[Stage], Any],
        layout: Layout,
    ):
        """Takes the sources.

        Args:
            source: of B pictures.
            transition: the sampler's.
            stages: the flow's, coarsest first.
            noise: gives the standard normal (B, H_k, W_k, C) that the sampler draws for a stage.
            layout: how pictures are spread over devices.
        """
        self._source, self._transition, self._stages, self._layout = source, transition, stages, layout
        self._draw, self._noises = noise, [noise(stages[0])]

    def at(self, stage: Stage, tau: float) -> tuple[Held | None, jax.Array]:
        """Returns what a stage is held to, None without a mask, and the path's point (B, H_k, W_k, C) at `tau`."""
        while len(self._noises) < stage.number:
            fresh = self._draw(self._stages[len(self._noises)])
            self._noises.append(carry_noise(self._layout, self._noises[-1], fresh))
        before = None if stage.number == 1 else self._stages[stage.number - 2]
        kind, noise, latents = (before, stage, self._layout), self._noises[stage.number - 1], self._source.latents
        x_start, x_end, point = stage_path(kind, self._transition, latents, noise, np.float32(tau))
        mask = self._source.mask
        if mask is None:
            return None, point
        return Held(x_start, x_end, pooled_mask(mask, stage)), point


def pooled_mask(mask: np.ndarray, stage: Stage) -> np.ndarray:
    """Returns a mask (B, H, W, 1) at a stage's size: what holds anything that is drawn, is drawn."""
    side = stage.downscale
    return einops.reduce(mask, "b (h p) (w q) c -> b h w c", "max", p=side, q=side)


@BoundedJit
def carry_noise(layout: Layout, before: jax.Array, fresh: jax.Array) -> jax.Array:
    """Returns the noise (B, H, W, C) of a stage's path: see `carried_noise`."""
    return layout.latents(carried_noise(layout.latents(before), layout.latents(fresh)))


@BoundedJit
def stage_path(
    kind: tuple[Stage | None, Stage, Layout],
    transition: Transition,
    latents: jax.Array,
    noise: jax.Array,
    tau: np.float32,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the ends of a stage's path to latents of the last stage, and its point at a local time.

    Args:
        kind: the stage before or None, the stage k, and the layout.
        transition: between them.
        latents: (B, H, W, C) clean latents of the last stage.
        noise: (B, H_k, W_k, C) standard normal.
        tau: () local time.

    Returns:
        x_start, x_end and the point, (B, H_k, W_k, C).
    """
    before, stage, layout = kind
    latents = pool(layout.latents(latents), stage.downscale)
    x_start, x_end = path_ends(transition, before, stage, latents, layout.latents(noise))
    point, _ = interpolate(x_start, x_end, jax.numpy.broadcast_to(tau, latents.shape[:1]))
    return x_start, x_end, point
