"""Sampling: from noise and text states to the final latents, stage by stage."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from nami_jax.config import ModelConfig, SampleConfig, require, require_side
from nami_jax.flow.schedule import Grid, make_schedules
from nami_jax.flow.solver import Moving
from nami_jax.flow.stages import Stage, make_stages
from nami_jax.flow.transition import Transition
from nami_jax.models.layout import ONE_DEVICE, Layout
from nami_jax.sampling.source_paths import Source, SourcePaths
from nami_jax.sampling.stage_programs import (
    Networks,
    draw_noise,
    image_noise,
    run_stage,
    run_stage_by_steps,
)
from nami_jax.sampling.velocity import Guidance, StageProgram
from nami_jax.terminal.progress import progress_bar

ROUNDING = 1e-6  # of global times
# The step's number from 0 on, the global time () where it ended and its latents -> others in their place, or None.
OnStep = Callable[[int, float, jax.Array], Any]
Hook = Callable[[float, jax.Array], Any]  # the same without the number


class Request(NamedTuple):
    """Which latents to sample.

    Attributes:
        height: of the final latents.
        width: of the final latents.
        seed: of the noise.
        numbers: (B,) image numbers; an image's noise is keyed by the seed and its number.
        initial: (B, H_1, W_1, C) standard normal, to start from; None draws it.
        source: known latents to begin from, or to keep in part; None: there are none.
    """

    height: int
    width: int
    seed: int
    numbers: Sequence[int]
    initial: Any = None
    source: Source | None = None


class Watching(NamedTuple):
    """What is told of the steps.

    Attributes:
        progress: show a bar, which counts steps; without `on_step` it moves at the end of each stage.
        on_step: called after each step, which is then a program of its own.
    """

    progress: bool = False
    on_step: OnStep | None = None

    def hook(self, bar: tqdm) -> Hook | None:
        """Returns what is called after each step of a stage, and moves the bar; None if nothing is."""
        if self.on_step is None:
            return None
        told, numbers = self.on_step, itertools.count()

        def after(time: float, latents: jax.Array) -> Any:
            bar.update()
            return told(next(numbers), time, latents)

        return after


UNWATCHED = Watching()


class StagePlan(NamedTuple):
    """What is to be done of a stage."""

    program: StageProgram
    grid: Grid
    scale: float  # of guidance


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
        watching: Watching = UNWATCHED,
    ) -> np.ndarray:
        """Samples final latents (or pixels, for a model of pixels).

        Args:
            networks: the network and the transition.
            text: token states (B, T, D) and pooled vectors (B, P) of the prompts.
            negative: the same of the negative prompts, batch B or 1.
            sample: steps per stage, guidance scale, grid and solver.
            request: sizes and noise.
            watching: what is told of the steps.

        Returns:
            (B, height, width, C) float32.

        Raises:
            ConfigError: a side that the stages, the patches or the bridge do not support, steps of the wrong length, or
                initial latents of another shape.
        """
        *_, (_, final) = self.stage_ends(networks, text, negative, sample, request, watching)
        return self.fetched(final.x, len(request.numbers))

    def stage_ends(
        self,
        networks: Networks,
        text: tuple[Any, Any],
        negative: tuple[Any, Any],
        sample: SampleConfig,
        request: Request,
        watching: Watching = UNWATCHED,
    ) -> Iterator[tuple[Stage, Moving]]:
        """Samples as a call does, and yields each stage and where it ended, of the filled batch, on devices."""
        states, filled = self.filled(text, negative, request)
        plans = self.plans(sample, 1.0 if request.source is None else request.source.begin)
        total = sum(len(plan.grid.times) - 1 for plan in plans)
        with progress_bar(total=total, desc="sampling", unit="step", disable=not watching.progress) as bar:
            by_stage = self.by_stage(networks, states, sample, filled, watching.hook(bar))
            for plan, end in zip(plans, by_stage, strict=True):
                if watching.progress and watching.on_step is None:
                    end.x.block_until_ready()
                    bar.update(len(plan.grid.times) - 1)
                yield plan.program.stage, end

    def filled(
        self, text: tuple[Any, Any], negative: tuple[Any, Any], request: Request
    ) -> tuple[tuple[np.ndarray, np.ndarray], Request]:
        """Fills a batch up with its own first images, to be dropped again, for the layout to share evenly.

        Args:
            text: token states (B, T, D) and pooled vectors (B, P) of the prompts, or of one.
            negative: the same of the negative prompts.
            request: of B images.

        Returns:
            Both of both halves, (2B', T, D) and (2B', P), and the request of B' images.
        """
        count, parts = len(request.numbers), self.layout.batch_parts
        rows = np.arange(-(-count // parts) * parts) % count
        embeds, pooled = (
            np.concatenate([np.broadcast_to(x, (count, *t.shape[1:]))[rows] for x in (t, n)])
            for t, n in zip(text, negative, strict=True)
        )
        return (embeds, pooled), request._replace(
            numbers=np.asarray(request.numbers)[rows].tolist(),
            initial=None if request.initial is None else np.asarray(request.initial)[rows],
            source=None if request.source is None else request.source.rows(rows),
        )

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
            if x is None or networks.transition.share:
                noise = draw_noise.compile(kind, np.uint32(0), numbers)
            start, added = (noise, None) if x is None else (x, noise)
            x = run_stage.compile(program, networks, start, added, guidance, grid, None).x

    def by_stage(
        self,
        networks: Networks,
        text: tuple[Any, Any],
        sample: SampleConfig,
        request: Request,
        hook: Hook | None = None,
    ) -> Iterator[Moving]:
        """Yields where each stage that is run ended: latents (B, H_k, W_k, C) float32 and last velocity.

        Args:
            networks: the network and the transition.
            text: token states (2B, T, D) and pooled vectors (2B, P), the prompts' and then the negative prompts'.
            sample: steps per stage, guidance scale, grid and solver.
            request: sizes and noise; B is a multiple of the layout's `batch_parts`.
            hook: called after each step; None: each stage is one program.

        Raises:
            ConfigError: as for a call.
        """
        height, width, seed, numbers, initial, source = request
        self.check(sample, networks.transition, height, width)
        shapes = self.shapes(height, width)

        def noise(stage: Stage) -> Any:
            if stage.number == 1 and initial is not None:
                return np.asarray(initial, np.float32)
            return image_noise(seed, numbers, stage, shapes[stage.number - 1], self.layout)

        x, wanted = noise(self.stages[0]), (len(numbers), *shapes[0])
        require(
            x.shape == wanted,
            field="initial",
            value=x.shape,
            rule="is not the shape of the first stage's latents",
            remedy=f"Pass latents of shape {wanted}",
        )
        paths = None if source is None else SourcePaths(source, networks.transition, self.stages, noise, self.layout)
        for plan in self.plans(sample, 1.0 if source is None else source.begin):
            program, held, added = plan.program, None, None
            begins = program.before is None
            if source is not None and paths is not None and (begins or source.mask is not None):
                held, point = paths.at(program.stage, plan.grid.taus[0])
                x = point if begins else x
            if not begins and networks.transition.share:
                added = noise(program.stage)
            guidance = Guidance(text, np.float32(plan.scale), np.float32(sample.guidance_rescale))
            end = self._run(plan, (networks, x, added, guidance, plan.grid, held), hook)
            x = end.x
            yield end

    def _run(self, plan: StagePlan, arguments: tuple[Any, ...], hook: Hook | None) -> Moving:
        """Runs a stage, or its remaining steps: at once, or by steps if something is called after each."""
        if hook is None:
            return run_stage(plan.program, *arguments)
        steps, changed, moving = run_stage_by_steps(plan.program, *arguments), None, None
        for time in plan.grid.times[1:]:
            moving = steps.send(changed)
            changed = hook(float(time), moving.x)
        assert moving is not None, "a stage has steps"
        return moving if changed is None else moving._replace(x=changed)

    def plans(self, sample: SampleConfig, begin: float = 1.0) -> list[StagePlan]:
        """Returns what is to be run if drawing begins at a global time: the steps that start there or later.

        Raises:
            ConfigError: none does.
        """
        plans, latest = [], 1.0
        for (program, grid), scale in zip(self.programs(sample), sample.stage_scales, strict=True):
            latest = float(grid.times[-2])
            skipped = 0 if plans else int(np.sum(grid.times[:-1] > begin + ROUNDING))
            if skipped < len(program.guided):
                cut = program._replace(before=program.before if plans else None, guided=program.guided[skipped:])
                plans.append(StagePlan(cut, Grid(*(times[skipped:] for times in grid)), scale))
        require(
            bool(plans),
            field="strength",
            value=begin,
            rule="no step begins as late as that",
            remedy=f"Set at least {math.ceil(1000 * latest) / 1000}, or more steps",
        )
        return plans

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

    def fetched(self, x: jax.Array, count: int) -> np.ndarray:
        """Returns the latents (B, H, W, C) of the first `count` pictures."""
        return np.asarray(self.layout.replicate(x))[:count]  # cut by jax, it would compile for each count

    def shapes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """Returns (H_k, W_k, C) of every stage's latents, coarsest first, given the final ones' height and width."""
        return [(height // stage.downscale, width // stage.downscale, self.model.channels) for stage in self.stages]

    def check(self, sample: SampleConfig, transition: Transition, height: int, width: int, downscale: int = 1) -> None:
        """Checks what a user asks for before anything is compiled.

        Args:
            sample: the sampler's settings.
            transition: what is to make the jumps.
            height: of the pictures, pixels; of the final latents, as in `Request`, where `downscale` is 1. What is
                raised names it in the same unit.
            width: likewise.
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
