"""Sampling: one jitted function per stage, from noise to the final latents.

Before it: text states from `text`; after it: pixels in `pipeline`. Compiled functions are kept by shape, so further
prompts, seeds and guidance scales cost no compilation.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from nami_jax.config import ModelConfig, SampleConfig, require, require_side
from nami_jax.flow.guidance import double, guide
from nami_jax.flow.resize import upsample
from nami_jax.flow.schedule import Grid, linear_grids, released_grids
from nami_jax.flow.solver import SOLVERS
from nami_jax.flow.stages import Stage, make_stages
from nami_jax.flow.transition import renoise
from nami_jax.models.bridge import AnyBridge
from nami_jax.models.layout import ONE_DEVICE, Layout
from nami_jax.models.nami import Nami


def image_noise(
    seed: int, numbers: Sequence[int], stage: Stage, shape: tuple[int, int, int], layout: Layout = ONE_DEVICE
) -> jax.Array:
    """Draws each image's noise for one stage, from the seed and the image's number alone.

    Args:
        seed: of the request.
        numbers: (B,) image numbers; the noise of a number does not depend on the others.
        stage: the stage k, which has noise of its own.
        shape: (H, W, C).
        layout: how images are spread over devices.

    Returns:
        (B, H, W, C) standard normal, float32.
    """
    return _image_noise(np.uint32(seed), np.asarray(numbers, np.uint32), stage.number, shape, layout)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _image_noise(
    seed: np.uint32, numbers: np.ndarray, stage_number: int, shape: tuple[int, int, int], layout: Layout
) -> jax.Array:
    # threefry: the same numbers alone and under vmap, on every platform.
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), stage_number)
    return layout.latents(jax.vmap(lambda number: jax.random.normal(jax.random.fold_in(key, number), shape))(numbers))


def check_request(
    model: ModelConfig,
    sample: SampleConfig,
    height: int,
    width: int,
    bridge: AnyBridge | None = None,
    downscale: int = 1,
) -> None:
    """Checks what a user asks for before anything is compiled.

    Args:
        model: the network's sizes.
        sample: the sampler's settings.
        height: of the pictures, pixels.
        width: of the pictures, pixels.
        bridge: the learned transition that is to make the jumps; None for renoising.
        downscale: pixels per latent, each way.

    Raises:
        ConfigError: a side that the stages, the patches or the bridge do not take, or steps of the wrong length.
    """
    require_side(height, model, "height", downscale)
    require_side(width, model, "width", downscale)
    if bridge is not None:
        bridge.require_size(height // downscale, width // downscale)
    require(
        len(sample.steps) == model.num_stages,
        field="steps",
        value=sample.steps,
        rule=f"the model has {model.num_stages} stages",
        remedy=f"Give {model.num_stages} counts, one per stage",
    )


def stage_grids(stages: Sequence[Stage], sample: SampleConfig) -> tuple[Grid, ...]:
    """Returns the time grid of every stage."""
    if sample.grid == "released":
        return released_grids(len(stages), sample.steps)
    return linear_grids(stages, sample.steps)


def guided_velocity(model: Nami, text: tuple, guidance_scale, stage: Stage, layout: Layout = ONE_DEVICE):
    """Returns (x (B, H, W, C), t ()) -> guided velocity (B, H, W, C), both halves of the guided batch in one forward.

    Args:
        model: the network.
        text: token states (2B, T, D) and pooled vectors (2B, P), the prompts' and then the negative prompts'.
        guidance_scale: 1 is no guidance.
        stage: the stage k.
        layout: how the network is spread over devices.
    """

    def velocity(x, t):
        times, both = jnp.full(2 * x.shape[0], t), layout.latents(double(x))
        predicted = model(both, times, *text, stage=stage.number, layout=layout)
        return layout.latents(guide(predicted, guidance_scale))

    return velocity


def jump(x: jax.Array, noise: jax.Array | None, before: Stage, bridge: AnyBridge | None) -> jax.Array:
    """Takes the latents (B, H, W, C) at the end of stage `before` to the next stage's start (B, 2H, 2W, C)."""
    if bridge is not None:
        return bridge(upsample(x), stage=before.number + 1)
    assert noise is not None, "renoising needs noise"
    return renoise(x, noise, before.sigma_end)


@functools.partial(jax.jit, static_argnames=("stage", "before", "solver", "layout"))
def run_stage(
    model: Nami,
    bridge: AnyBridge | None,
    x: jax.Array,
    noise: jax.Array | None,
    text: tuple,
    guidance_scale: jax.Array,
    grid: Grid,
    *,
    stage: Stage,
    before: Stage | None,
    solver: str,
    layout: Layout = ONE_DEVICE,
) -> jax.Array:
    """Jumps into a stage and integrates over it: one compiled function per stage and shape.

    Args:
        model: the network.
        bridge: the learned transition, or None for renoising.
        x: (B, H/2, W/2, C) result of the stage before; for the first stage its start, (B, H, W, C) standard normal.
        noise: (B, H, W, C) standard normal for renoising; None for the first stage and where a bridge makes the jump.
        text: token states (2B, T, D) and pooled vectors (2B, P), prompts first.
        guidance_scale: () float32.
        grid: the stage's times.
        stage: the stage k.
        before: stage k-1, or None.
        solver: "euler" or "heun".
        layout: how images and the network are spread over devices.

    Returns:
        (B, H, W, C) latents at the stage's end.
    """
    text = tuple(map(layout.latents, text))
    start = layout.latents(x if before is None else jump(x, noise, before, bridge))
    return SOLVERS[solver](guided_velocity(model, text, guidance_scale, stage, layout), start, grid)


def sample_stages(
    model: Nami,
    text: tuple,
    sample: SampleConfig,
    *,
    height: int,
    width: int,
    seed: int,
    numbers: Sequence[int],
    sigma_ends: Sequence[float] | None = None,
    bridge: AnyBridge | None = None,
    initial: jax.Array | None = None,
    layout: Layout = ONE_DEVICE,
) -> Iterator[jax.Array]:
    """Yields the latents at the end of each stage, (B, H_k, W_k, C) float32, coarsest first.

    Args:
        model: the network.
        text: token states (2B, T, D) and pooled vectors (2B, P), the prompts' and then the negative prompts'.
        sample: steps per stage, guidance scale, grid and solver.
        height: of the final latents.
        width: of the final latents.
        seed: of the request.
        numbers: (B,) image numbers within the request; noise is keyed by seed and number.
        sigma_ends: as in training; None for the paper's.
        bridge: the learned transition, or None for renoising.
        initial: (B, H_1, W_1, C) standard normal, to start from; None draws it.
        layout: how images and the network are spread over devices; B is a multiple of its `batch_parts`.

    Raises:
        ConfigError: a side that the stages, the patches or the bridge do not take, steps of the wrong length, or
            initial latents of another shape.
    """
    check_request(model.cfg, sample, height, width, bridge)
    stages = make_stages(model.cfg.num_stages, sigma_ends)
    shape, before = stage_shape(model.cfg, stages[0], height, width), None
    x = image_noise(seed, numbers, stages[0], shape, layout) if initial is None else np.asarray(initial, np.float32)
    require(
        x.shape == (len(numbers), *shape),
        field="initial",
        value=x.shape,
        rule="is not the shape of the first stage's latents",
        remedy=f"Give {(len(numbers), *shape)}",
    )
    for stage, grid in zip(stages, stage_grids(stages, sample), strict=True):
        shape = stage_shape(model.cfg, stage, height, width)
        noise = None if before is None or bridge else image_noise(seed, numbers, stage, shape, layout)
        x = run_stage(
            model,
            bridge,
            x,
            noise,
            text,
            np.float32(sample.guidance_scale),
            grid,
            stage=stage,
            before=before,
            solver=sample.solver,
            layout=layout,
        )
        before = stage
        yield x


def sample_latents(
    model: Nami,
    text: tuple[np.ndarray, np.ndarray],
    negative: tuple[np.ndarray, np.ndarray],
    sample: SampleConfig,
    *,
    numbers: Sequence[int],
    initial: Any = None,
    layout: Layout = ONE_DEVICE,
    progress: bool = False,
    **request: Any,
) -> jax.Array:
    """Samples final latents (or pixels, for a model of pixels).

    Args:
        model: the network.
        text: token states (B, T, D) and pooled vectors (B, P) of the prompts.
        negative: the same of the negative prompts, batch B or 1.
        sample: steps per stage, guidance scale, grid and solver.
        numbers: (B,) image numbers within the request.
        initial: (B, H_1, W_1, C) standard normal, to start from; None draws it.
        layout: how images and the network are spread over devices.
        progress: show a bar over the stages.
        **request: height, width, seed, sigma_ends and bridge, as `sample_stages` takes them.

    Returns:
        (B, height, width, C) float32, on every device.

    Raises:
        ConfigError: a side that the stages or patches do not divide, or steps of the wrong length.
    """
    # The batch is filled up with its own first images, which are dropped again.
    rows = np.arange(-(-len(numbers) // layout.batch_parts) * layout.batch_parts) % len(numbers)
    states = tuple(
        np.concatenate([t[rows], np.broadcast_to(n, t.shape)[rows]]) for t, n in zip(text, negative, strict=True)
    )
    initial = None if initial is None else np.asarray(initial)[rows]
    latents = sample_stages(
        model, states, sample, numbers=np.asarray(numbers)[rows].tolist(), initial=initial, layout=layout, **request
    )
    with tqdm(latents, "stages", total=model.cfg.num_stages, disable=not progress) as bar:
        *_, final = (x.block_until_ready() if progress else x for x in bar)
    return layout.replicate(final)[: len(numbers)]


def stage_shape(model: ModelConfig, stage: Stage, height: int, width: int) -> tuple[int, int, int]:
    """Returns (H, W, C) of a stage's latents, given the final ones' height and width."""
    return height // stage.downscale, width // stage.downscale, model.channels
