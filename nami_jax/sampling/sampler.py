"""Sampling: one jitted function per stage, from noise and text states to the final latents.

The programs of the last shapes are kept, so further prompts, seeds, guidance scales and weights cost no compilation.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from nami_jax.config import ModelConfig, SampleConfig, require, require_side
from nami_jax.flow.schedule import Grid, make_schedules
from nami_jax.flow.solver import SOLVERS
from nami_jax.flow.stages import Stage, make_stages
from nami_jax.flow.transition import Transition
from nami_jax.models.layout import ONE_DEVICE, Layout
from nami_jax.models.nami import Nami
from nami_jax.parallel.kept_programs import BoundedJit
from nami_jax.sampling.velocity import Guidance, StageProgram, stage_velocity
from nami_jax.terminal.progress import progress_bar


class Networks(NamedTuple):
    """What has weights: an argument of the compiled functions."""

    model: Nami
    transition: Transition


class Request(NamedTuple):
    """Which latents to sample.

    Attributes:
        height: of the final latents.
        width: of the final latents.
        seed: of the noise.
        numbers: (B,) image numbers; an image's noise is keyed by the seed and its number.
        initial: (B, H_1, W_1, C) standard normal, to start from; None draws it.
    """

    height: int
    width: int
    seed: int
    numbers: Sequence[int]
    initial: Any = None


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
    return draw_noise((stage.number, shape, layout), np.uint32(seed), np.asarray(numbers, np.uint32))


@BoundedJit
def draw_noise(kind: tuple[int, tuple[int, int, int], Layout], seed: np.uint32, numbers: np.ndarray) -> jax.Array:
    """Draws noise for a stage's number, its latents' shape and the layout: see `image_noise`."""
    stage_number, shape, layout = kind
    # threefry: the same numbers alone and under vmap, on every platform.
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), stage_number)
    return layout.latents(jax.vmap(lambda number: jax.random.normal(jax.random.fold_in(key, number), shape))(numbers))


@BoundedJit
def run_stage(
    program: StageProgram,
    networks: Networks,
    x: jax.Array,
    noise: jax.Array | None,
    guidance: Guidance,
    grid: Grid,
) -> jax.Array:
    """Jumps into a stage and integrates over it: one compiled function per stage and shape.

    Args:
        program: the stage, how it is solved and where.
        networks: the network and the transition.
        x: (B, H/2, W/2, C) result of the stage before; for the first stage its start, (B, H, W, C) standard normal.
        noise: (B, H, W, C) standard normal for the jump; None for the first stage and where the jump needs none.
        guidance: text states and scale.
        grid: the stage's times.

    Returns:
        (B, H, W, C) latents at the stage's end.
    """
    before, layout, solve = program.before, program.layout, SOLVERS[program.solver]
    x = layout.latents(x if before is None else networks.transition(x, noise, before))
    first = 0
    for guided, steps in itertools.groupby(program.guided):  # where guidance begins or ends, the velocity jumps
        last = first + len(list(steps))
        velocity = stage_velocity(networks.model, guidance, program, guided)
        x = solve(velocity.at, x, Grid(*(times[first : last + 1] for times in grid)), velocity.prepare)
        first = last
    return x


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Draws by networks of one configuration; `make_sampler` builds it.

    Attributes:
        model: the network's sizes.
        stages: of its flow, coarsest first.
        layout: how images and the network are spread over devices.
    """

    model: ModelConfig
    stages: tuple[Stage, ...]
    layout: Layout = ONE_DEVICE

    def __call__(
        self,
        networks: Networks,
        text: tuple[Any, Any],
        negative: tuple[Any, Any],
        sample: SampleConfig,
        request: Request,
        progress: bool = False,
    ) -> np.ndarray:
        """Samples final latents (or pixels, for a model of pixels).

        Args:
            networks: the network and the transition.
            text: token states (B, T, D) and pooled vectors (B, P) of the prompts.
            negative: the same of the negative prompts, batch B or 1.
            sample: steps per stage, guidance scale, grid and solver.
            request: sizes and noise.
            progress: show a bar over the stages.

        Returns:
            (B, height, width, C) float32.

        Raises:
            ConfigError: a side that the stages, the patches or the bridge do not support, steps of the wrong length, or
                initial latents of another shape.
        """
        # The batch is filled up with its own first images, which are dropped again.
        count, parts = len(request.numbers), self.layout.batch_parts
        rows = np.arange(-(-count // parts) * parts) % count
        embeds, pooled = (
            np.concatenate([t[rows], np.broadcast_to(n, t.shape)[rows]]) for t, n in zip(text, negative, strict=True)
        )
        filled = request._replace(
            numbers=np.asarray(request.numbers)[rows].tolist(),
            initial=None if request.initial is None else np.asarray(request.initial)[rows],
        )
        latents = self.by_stage(networks, (embeds, pooled), sample, filled)
        with progress_bar(latents, desc="stages", total=len(self.stages), disable=not progress) as bar:
            *_, final = (x.block_until_ready() if progress else x for x in bar)
        return np.asarray(self.layout.replicate(final))[:count]  # cut by jax, it would compile for each count

    def compile(self, networks: Networks, text: tuple[Any, Any], sample: SampleConfig, request: Request) -> None:
        """Compiles what a call runs on its devices, and runs nothing.

        Args:
            networks: as for a call, arrays or ShapeDtypeStructs with shardings.
            text: the prompts' states, of which the shapes alone count.
            sample: steps per stage, grid and solver.
            request: sizes and numbers of the images.
        """
        parts, shapes = self.layout.batch_parts, self.shapes(request.height, request.width)
        count = -(-len(request.numbers) // parts) * parts
        embeds, pooled = (jax.ShapeDtypeStruct((2 * count, *x.shape[1:]), x.dtype) for x in text)
        guidance, numbers = Guidance((embeds, pooled), np.float32(1)), np.zeros(count, np.uint32)
        x = None
        for program, grid in self.programs(sample):
            kind, noise = (program.stage.number, shapes[program.stage.number - 1], self.layout), None
            if x is None or networks.transition.needs_noise:
                noise = draw_noise.compile(kind, np.uint32(0), numbers)
            start, added = (noise, None) if x is None else (x, noise)
            x = run_stage.compile(program, networks, start, added, guidance, grid)

    def by_stage(
        self, networks: Networks, text: tuple[Any, Any], sample: SampleConfig, request: Request
    ) -> Iterator[jax.Array]:
        """Yields the latents at the end of each stage, (B, H_k, W_k, C) float32, coarsest first.

        Args:
            networks: the network and the transition.
            text: token states (2B, T, D) and pooled vectors (2B, P), the prompts' and then the negative prompts'.
            sample: steps per stage, guidance scale, grid and solver.
            request: sizes and noise; B is a multiple of the layout's `batch_parts`.

        Raises:
            ConfigError: as for a call.
        """
        height, width, seed, numbers, initial = request
        self.check(sample, networks.transition, height, width)
        shapes = self.shapes(height, width)

        def noise(stage: Stage) -> jax.Array:
            return image_noise(seed, numbers, stage, shapes[stage.number - 1], self.layout)

        x = noise(self.stages[0]) if initial is None else np.asarray(initial, np.float32)
        wanted = len(numbers), *shapes[0]
        require(
            x.shape == wanted,
            field="initial",
            value=x.shape,
            rule="is not the shape of the first stage's latents",
            remedy=f"Pass latents of shape {wanted}",
        )
        for (program, grid), scale in zip(self.programs(sample), sample.stage_scales, strict=True):
            jumps = program.before is not None
            added = noise(program.stage) if jumps and networks.transition.needs_noise else None
            guidance = Guidance(text, np.float32(scale), np.float32(sample.guidance_rescale))
            x = run_stage(program, networks, x, added, guidance, grid)
            yield x

    def programs(self, sample: SampleConfig) -> list[tuple[StageProgram, Grid]]:
        """Returns what `run_stage` takes for every stage, coarsest first: its program, and its times."""
        return [
            (
                StageProgram(
                    stage,
                    before,
                    sample.solver,
                    self.layout,
                    schedule.guided,
                    sample.cfg_zero_star and any(schedule.guided),
                    sample.guidance_rescale > 0 and any(schedule.guided),
                ),
                schedule.grid,
            )
            for stage, before, schedule in zip(
                self.stages, (None, *self.stages[:-1]), make_schedules(self.stages, sample), strict=True
            )
        ]

    def shapes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """Returns (H_k, W_k, C) of every stage's latents, coarsest first, given the final ones' height and width."""
        return [(height // stage.downscale, width // stage.downscale, self.model.channels) for stage in self.stages]

    def check(self, sample: SampleConfig, transition: Transition, height: int, width: int, downscale: int = 1) -> None:
        """Checks what a user asks for before anything is compiled.

        Args:
            sample: the sampler's settings.
            transition: what is to make the jumps.
            height: of the pictures, pixels.
            width: of the pictures, pixels.
            downscale: pixels per latent, each way.

        Raises:
            ConfigError: a side that the stages, the patches or the bridge do not support, or steps of the wrong length.
        """
        require_side(height, self.model, "height", downscale)
        require_side(width, self.model, "width", downscale)
        transition.require_size(height // downscale, width // downscale)
        count = len(self.stages)
        require(
            len(sample.steps) == count,
            field="steps",
            value=sample.steps,
            rule=f"the model has {count} stages",
            remedy=f"Set {count} counts, one per stage",
        )


def make_sampler(model: ModelConfig, sigma_ends: Sequence[float] | None = None, layout: Layout = ONE_DEVICE) -> Sampler:
    """Builds the sampler of a network.

    Args:
        model: its sizes.
        sigma_ends: as in training; None for the paper's.
        layout: how images and the network are spread over devices.
    """
    return Sampler(model, make_stages(model.num_stages, sigma_ends), layout)
