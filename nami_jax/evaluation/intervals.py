"""A number with its 95 % interval: over seeds, or, of one seed, over pictures."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import t

LEVEL = 0.95
HALVES = 40  # random halves of the pictures, for the interval of one seed


@dataclasses.dataclass(frozen=True)
class Score:
    """One measured number.

    Attributes:
        value: the mean over seeds.
        low: lower end of its 95 % interval; None where there is no way to tell, as where all are the same.
        high: upper end.
        over: what the interval is over, "seeds" or "pictures".
        by_seed: the number of each seed.
        real: what real pictures score in place of samples, where that is known: the best that can be expected.
        chance: what random pictures of the data set would score.
        higher_is_better: None where neither is.
    """

    value: float
    low: float | None
    high: float | None
    over: str
    by_seed: tuple[float, ...]
    real: float | None = None
    chance: float | None = None
    higher_is_better: bool | None = None


def score(
    of: Callable[[int, np.ndarray], float],
    seeds: int,
    count: int,
    *,
    real: float | None = None,
    chance: float | None = None,
    higher_is_better: bool | None = False,
) -> Score:
    """Measures a number for each seed, with an interval.

    With several seeds the interval is Student's, of their mean. With one it comes from random halves of the pictures:
    their spread is that of the whole, since a half drawn without replacement has half the pictures and half of all
    variance is left out (the delete-half jackknife). Unlike a bootstrap it repeats no picture, which distances between
    sets would take for copies.

    Args:
        of: (seed's number, which pictures (n,)) -> the number.
        seeds: how many there are.
        count: pictures of each seed.
        real: see `Score`.
        chance: see `Score`.
        higher_is_better: see `Score`.

    Source: Shao and Wu, "A general theory for jackknife variance estimation", Annals of Statistics 17 (1989).
    """
    everything = np.arange(count)
    by_seed = tuple(float(of(seed, everything)) for seed in range(seeds))
    value, reach, over = float(np.mean(by_seed)), None, "seeds"
    if seeds > 1:
        reach = float(t.ppf((1 + LEVEL) / 2, seeds - 1) * np.std(by_seed, ddof=1) / math.sqrt(seeds))
    elif count >= 4:
        over, rng = "pictures", np.random.default_rng(0)
        halves = [of(0, np.sort(rng.permutation(count)[: count // 2])) for _ in range(HALVES)]
        reach = float(t.ppf((1 + LEVEL) / 2, count - 1) * np.std(halves, ddof=1))
    low, high = (value - reach, value + reach) if reach else (None, None)  # no spread at all says nothing
    return Score(value, low, high, over, by_seed, real, chance, higher_is_better)


def mean_score(values: Sequence[np.ndarray] | np.ndarray, **about: float | bool | None) -> Score:
    """Returns the score of a mean over pictures, given the values (seeds, N) of each."""
    values = np.asarray(values, np.float64)
    return score(lambda seed, some: values[seed, some].mean(), *values.shape, **about)  # pyright: ignore[reportArgumentType]
