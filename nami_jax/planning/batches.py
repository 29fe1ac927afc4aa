"""The largest batch that fits, from few compilations: memory is taken to grow linearly with the batch.

A batch is counted in units: the smallest one with the same ratios between the stages that the devices can share.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

from nami_jax.training.compilation import BatchShapes


@dataclasses.dataclass(frozen=True)
class LargestBatch:
    """How many units fit, and how that is known."""

    units: int  # 0: not even one
    basis: str  # for people


def batch_unit(stage_batch: Sequence[int], parts: int) -> tuple[int, ...]:
    """Returns the smallest batch with the ratios of `stage_batch` whose every stage splits over `parts` devices.

    `stage_batch`, which does so itself, is a multiple of it.
    """
    ratios = [count // math.gcd(*stage_batch) for count in stage_batch]
    factor = math.lcm(*(parts // math.gcd(parts, ratio) for ratio in ratios))
    return tuple(factor * ratio for ratio in ratios)


def with_batch(shapes: BatchShapes, stage_batch: Sequence[int]) -> BatchShapes:
    """Returns the shapes of the same images in other numbers."""
    return tuple((count, *shape[1:]) for count, shape in zip(stage_batch, shapes, strict=True))


def largest_batch(units: int, limit: int, needed: Callable[[int], int | None], verify: bool) -> LargestBatch | None:
    """Extrapolates how many units fit from the configured batch and one other.

    Args:
        units: of the configured batch.
        limit: bytes that each device has.
        needed: units -> bytes on each device, by a compilation; None if so many do not fit. It should remember.
        verify: compile the result, and less if that does not fit.

    Returns:
        None if memory does not grow with the batch, so that nothing can be said.
    """
    configured = needed(units)
    if configured is None:
        others = [n for n in (1, 2) if n < units]
        found = {n: size for n in others if (size := needed(n)) is not None}
        if len(found) < 2:
            return LargestBatch(len(found), "found by compilation")
    else:
        other = units // 2 or 2
        size = needed(other)
        if size is None:
            return LargestBatch(units, "found by compilation; larger ones do not fit")
        found = {units: configured, other: size}
    (few, low), (many, high) = sorted(found.items())
    if high <= low:
        return None
    estimate = few + (limit - low) * (many - few) // (high - low)
    estimate = max(estimate if configured is not None else min(estimate, units - 1), many)
    if not verify:
        return LargestBatch(estimate, f"extrapolated linearly from compilations of {few} and {many} units")
    while estimate > many and needed(estimate) is None:
        estimate = (many + estimate) // 2
    return LargestBatch(estimate, "extrapolated, and verified by compilation")
