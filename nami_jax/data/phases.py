"""When each training phase begins. Pure arithmetic; the loader and the learning rate both stand on it."""

from collections.abc import Sequence


def phase_bounds(steps: int, phase_starts: Sequence[float]) -> tuple[int, ...]:
    """Returns the first step of each phase and, last, the number of steps: phase p is bounds[p] to bounds[p + 1].

    Args:
        steps: of the whole run.
        phase_starts: the share of the steps at which each phase begins, rising from 0.
    """
    return (*(round(start * steps) for start in phase_starts), steps)


def phase_of(step: int, bounds: Sequence[int]) -> int:
    """Returns the phase (0 first) that `step` belongs to: the last that has begun."""
    return max(p for p, first in enumerate(bounds[:-1]) if step >= first)
