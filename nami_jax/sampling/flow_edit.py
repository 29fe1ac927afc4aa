"""Editing a picture by the difference of two texts: FlowEdit (arXiv 2412.08629), stage by stage.

The state is the edit: what is added to the picture's own path. Its velocity is the difference of two of the network's,
at the path's point plus the edit under the new text, and at the path's point under the text of the picture. The noise
of the path is drawn anew for each step. Between stages the edit makes the jump without its noise; after the last, whose
path ends in the picture itself, it is added to that.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nami_jax.config import SampleConfig
from nami_jax.flow.interpolant import end_before, interpolate
from nami_jax.flow.resize import pool
from nami_jax.flow.schedule import Grid
from nami_jax.flow.solver import euler
from nami_jax.flow.stages import Stage
from nami_jax.flow.transition import path_ends
from nami_jax.parallel.kept_programs import BoundedJit
from nami_jax.sampling.prompts import Texts
from nami_jax.sampling.sampler import Request, Sampler, Watching
from nami_jax.sampling.source_paths import pooled_mask
from nami_jax.sampling.stage_programs import Networks, guided_runs
from nami_jax.sampling.velocity import Guidance, StageProgram, stage_velocity
from nami_jax.terminal.progress import progress_bar

KEYS = 1000  # of the noise of stage k's steps: KEYS + k, where sampling has k


class EditProgram(NamedTuple):
    """What the compiled function of a stage is made for; `program.before` is None where the edit begins."""

    program: StageProgram
    before: Stage | None  # the stage before, of the path


class Edited(NamedTuple):
    """Pictures to be edited.

    Attributes:
        latents: (B, H, W, C) clean, of the stage's size.
        drawn: (B, H, W, 1) bool, true where they may change; None: everywhere.
        seed: () uint32 of the noise.
        numbers: (B,) uint32 image numbers.
    """

    latents: Any
    drawn: Any
    seed: Any
    numbers: Any


def edited_stages(
    sampler: Sampler, networks: Networks, texts: Texts, sample: SampleConfig, request: Request, watching: Watching
) -> Iterator[tuple[Stage, np.ndarray]]:
    """Edits pictures.

    Args:
        sampler: of the networks.
        networks: the network and the transition.
        texts: states of B prompts, of B negative ones or one, and of what the B pictures show, or of one.
        sample: steps, guidance and grid; the steps are Euler's, whatever its solver.
        request: sizes, noise and, as its source, the pictures.
        watching: its bar moves at the end of each stage.

    Yields:
        Each stage that is run, coarsest first, and the clean latents (B, H_k, W_k, C) float32 at its end.
    """
    assert request.source is not None, "an edit has a picture"
    assert texts.edited is not None, "and its text"
    count = len(request.numbers)
    target, filled = sampler.filled(texts.prompts, texts.negatives, request)
    shown, _ = sampler.filled(texts.edited, texts.negatives, request)
    source = filled.source
    assert source is not None, "as before"
    delta, plans = None, sampler.plans(sample, request.source.begin)
    total = sum(len(plan.program.guided) for plan in plans)
    with progress_bar(total=total, desc="editing", unit="step", disable=not watching.progress) as bar:
        for plan in plans:
            stage = plan.program.stage
            before = None if stage.number == 1 else sampler.stages[stage.number - 2]
            levels = at_stage((stage, sampler.layout), source.latents)
            drawn = None if source.mask is None else pooled_mask(source.mask, stage)
            edited = Edited(levels, drawn, np.uint32(request.seed), np.asarray(filled.numbers, np.uint32))
            scales = np.float32(plan.scale), np.float32(sample.guidance_rescale)
            guidances = Guidance(shown, *scales), Guidance(target, *scales)
            delta = edit_stage(EditProgram(plan.program, before), networks, delta, edited, guidances, plan.grid)
            bar.update(len(plan.program.guided))
            yield stage, sampler.fetched(apply_edit((stage, sampler.layout), levels, delta), count)


@BoundedJit
def at_stage(kind: tuple[Stage, Any], latents: jax.Array) -> jax.Array:
    """Pools latents (B, H, W, C) of the last stage to the size of the one in `kind`."""
    stage, layout = kind
    return pool(layout.latents(latents), stage.downscale)


@BoundedJit
def apply_edit(kind: tuple[Stage, Any], latents: jax.Array, delta: jax.Array) -> jax.Array:
    """Returns clean latents (B, H, W, C) of a stage with an edit of the path's end added."""
    stage, layout = kind
    return layout.latents(latents + delta / (1 - stage.sigma_end))


@BoundedJit
def edit_stage(
    kind: EditProgram,
    networks: Networks,
    delta: jax.Array | None,
    edited: Edited,
    guidances: tuple[Guidance, Guidance],
    grid: Grid,
) -> jax.Array:
    """Takes an edit through a stage.

    Args:
        kind: the stage, and how it is guided.
        networks: the network and the transition.
        delta: (B, H/2, W/2, C) the edit at the end of the stage before; None: it begins here.
        edited: the pictures.
        guidances: by the text of the pictures, and by the new one.
        grid: the stage's times.

    Returns:
        (B, H, W, C) the edit at the stage's end.
    """
    program, before = kind
    stage, layout = program.stage, program.layout
    latents = layout.latents(edited.latents)
    delta = jnp.zeros_like(latents) if delta is None else _jump(networks, delta, latents, before)
    key = jax.random.fold_in(jax.random.key(edited.seed, impl="threefry2x32"), KEYS + stage.number)

    def path(number: jax.Array, tau: jax.Array) -> jax.Array:
        keys = jax.vmap(lambda image: jax.random.fold_in(jax.random.fold_in(key, number), image))(edited.numbers)
        noise = layout.latents(jax.vmap(lambda key: jax.random.normal(key, latents.shape[1:]))(keys))
        ends = path_ends(networks.transition, before, stage, latents, noise)
        return interpolate(*ends, jnp.broadcast_to(tau, latents.shape[:1]))[0]

    done = 0
    for guided, part in guided_runs(program.guided, grid):
        shown, target = (stage_velocity(networks.model, guidance, program, guided) for guidance in guidances)
        times, count = part.times[:-1], len(part.times) - 1

        def step(delta: jax.Array, each: Any, shown=shown, target=target) -> tuple[jax.Array, None]:
            number, tau, length, here, there = each
            x = path(number, tau)
            delta = delta + length * (target.at(x + delta, there) - shown.at(x, here))
            return (delta if edited.drawn is None else jnp.where(edited.drawn, delta, 0)), None

        lengths = jnp.asarray(euler.steps(part).length)
        numbers = jnp.arange(done, done + count)
        each = numbers, jnp.asarray(part.taus[:-1]), lengths, shown.prepare(times), target.prepare(times)
        delta, _ = jax.lax.scan(step, delta, each)
        done += count
    return delta


def _jump(networks: Networks, delta: jax.Array, latents: jax.Array, before: Stage | None) -> jax.Array:
    """Takes an edit into a stage: by how much the jump of the edited path's end differs from that of the path's own."""
    assert before is not None, "the first stage begins without an edit"
    quiet = jnp.zeros_like(latents)
    end = end_before(latents, quiet, before.sigma_end)
    return networks.transition(end + delta, quiet, before) - networks.transition(end, quiet, before)
