"""Time grids of the sampler: for each stage an array of local times and one of the network's times, nothing else."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nami_jax.config import SampleConfig
from nami_jax.flow.stages import Stage, renoised_sigma

TICKS = 1000  # of the released training


class Grid(NamedTuple):
    """Times of one stage with N solver steps.

    Attributes:
        taus: (N+1,) float32 local times from 1 to 0.
        times: (N+1,) float32 global times in [0, 1] at the same points, for the network.
    """

    taus: np.ndarray
    times: np.ndarray


class Schedule(NamedTuple):
    """What a stage's steps are.

    Attributes:
        grid: their times.
        guided: (N,) whether each is taken with guidance.
        scale: of the guidance.
    """

    grid: Grid
    guided: tuple[bool, ...]
    scale: float


def make_schedules(stages: Sequence[Stage], sample: SampleConfig) -> tuple[Schedule, ...]:
    """Returns what the steps of each stage are, coarsest first, as the sampler's settings say.

    A step is guided if it begins within `guidance_interval` (arXiv 2404.07724), and if its scale is above 1, as in
    the release.
    """
    if sample.grid == "released":
        grids = released_grids(len(stages), sample.steps)
    elif sample.taus is not None:
        grids = tuple(make_grid(stage, np.array(taus)) for stage, taus in zip(stages, sample.taus, strict=True))
    else:
        grids = linear_grids(stages, sample.steps, sample.shift)
    if sample.zero_init_steps:  # nothing moves in them: the first step is taken from where they end
        grids = (Grid(*(times[sample.zero_init_steps :] for times in grids[0])), *grids[1:])
    low, high = sample.guidance_interval
    return tuple(
        Schedule(grid, tuple(bool(scale > 1 and low <= t <= high) for t in grid.times[:-1]), scale)
        for grid, scale in zip(grids, sample.stage_scales, strict=True)
    )


def linear_grids(stages: Sequence[Stage], steps: Sequence[int], shift: float = 1.0) -> tuple[Grid, ...]:
    """Returns grids of `steps[k]` solver steps in each stage, equal ones if `shift` is 1.

    Args:
        stages: coarsest first.
        steps: one count per stage.
        shift: s, by which equally spaced local times become s tau / (1 + (s - 1) tau): above 1 the steps at the stage's
            start are shorter. SD3 (arXiv 2403.03206, sec. 5.3.2) shifts the time of all noise; here a stage's ends
            stay.
    """
    spaced = (np.linspace(1.0, 0.0, count + 1) for count in steps)
    return tuple(
        make_grid(stage, shift * taus / (1 + (shift - 1) * taus)) for stage, taus in zip(stages, spaced, strict=True)
    )


def make_grid(stage: Stage, taus: np.ndarray) -> Grid:
    """Returns the grid of a stage at local times (N+1,)."""
    return Grid(taus.astype(np.float32), stage.global_time(taus).astype(np.float32))


def released_grids(num_stages: int, steps: Sequence[int]) -> tuple[Grid, ...]:
    """Returns the grids of the released NAMI scheduler, for parity with it.

    That scheduler counts time in `TICKS` whole ticks and cuts the stages' windows at whole ticks. It spaces `steps[k]`
    points from a window's first tick to its last and then appends 0, so the last step of each stage is tiny: of N steps
    about N - 1 do something. Use `linear_grids` where parity does not matter. The scheduler can shift all of its noise
    levels, windows included; the release sets that shift to 1, which is none, and so does this.

    Args:
        num_stages: K, with windows at the default noise levels.
        steps: solver steps of each stage.

    Returns:
        One grid per stage; `times` are ticks / TICKS, with the next window's first tick (0 after the last) at the end.
    """
    ticks = _released_ticks(num_stages)
    grids = []
    for (first, stop), count in zip(itertools.pairwise(ticks), steps, strict=True):
        points = np.linspace(first, stop + 1, count)
        taus = np.linspace(1.0, 1.0 / (first - stop), count)
        grids.append(
            Grid(np.append(taus, 0.0).astype(np.float32), (np.append(points, stop) / TICKS).astype(np.float32))
        )
    return tuple(grids)


def _released_ticks(num_stages: int) -> list[int]:
    """Returns the tick at which each stage starts, and the one at which the last stops."""
    cuts = [int(k / num_stages * TICKS) for k in range(num_stages)]
    ends = [(TICKS - cut) / TICKS for cut in cuts[1:]] + [0.0]
    starts = [1.0] + [renoised_sigma(end) for end in ends[:-1]]
    lengths = np.subtract(starts, ends)
    passed = np.cumsum(lengths)[:-1] / lengths.sum()
    return [TICKS] + [TICKS - int(share * TICKS) for share in passed] + [1]
