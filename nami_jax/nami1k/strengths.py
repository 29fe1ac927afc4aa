"""Scores from votes, and their intervals by resampling prompts and raters.

A model's score is in points: how often, in a hundred, it would be preferred to another model drawn at random, with a
tie as half. 50 is the middle. The chances are those of Bradley and Terry's model, as evalica fits it, each tie being
half a win for both. Newman's model, which has a parameter for ties, is fitted beside it.

Votes on one prompt are alike, and so are votes by one rater; a bootstrap over votes would take them for independent. So
prompts are resampled, raters are resampled, and votes are resampled, each alone, and variance(prompts) +
variance(raters) - variance(votes) is what both together leave uncertain: the chance of a single vote is in each of the
three. (Resampling both at once would count it three times over.)

Sources: Newman, "Efficient computation of rankings from pairwise comparisons", JMLR 24 (2023); Cameron, Gelbach and
Miller, "Robust inference with multiway clustering", JBES 29 (2011); Owen, "The pigeonhole bootstrap", AOAS 1 (2007).
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import evalica
import numpy as np
import pandas as pd
from scipy.stats import t

from nami_jax.nami1k.ballots import Ballots

LEVEL = 0.95
PRIOR = 0.25  # votes won by either model of a pair, added to those that were cast: a model that never lost has a score
DRAWS = 300
STEPS = 10_000  # of the fit, at most

# (draws, columns) of counts -> (draws, statistics)
Statistic = Callable[[np.ndarray], np.ndarray]


@functools.cache
def _rows(models: int) -> tuple[list[int], list[int], list[evalica.Winner], pd.Index]:
    pairs = list(itertools.combinations(range(models), 2))
    winners = [evalica.Winner.X, evalica.Winner.Y, evalica.Winner.Draw] * len(pairs)
    return (
        [i for i, _ in pairs for _ in range(3)],
        [j for _, j in pairs for _ in range(3)],
        winners,
        pd.RangeIndex(models),
    )


def pair_counts(ballots: Ballots) -> np.ndarray:
    """Returns (axes, pairs, 3) how often the first of two models won, the second won, neither did."""
    columns = vote_columns(ballots)
    models, axes = len(ballots.models), columns.shape[1]
    return np.bincount(columns.ravel(), minlength=axes * models * (models - 1) // 2 * 3).reshape(axes, -1, 3)


def vote_columns(ballots: Ballots) -> np.ndarray:
    """Returns (V, axes) the place of each answer in the flattened array of `pair_counts`."""
    models, axes = len(ballots.models), ballots.answers.shape[1]
    number = np.zeros((models, models), np.int64)
    pairs = list(itertools.combinations(range(models), 2))
    for k, (i, j) in enumerate(pairs):
        number[i, j] = number[j, i] = k
    outcome = np.select([ballots.preferred() == 1, ballots.preferred() == -1], [0, 1], 2)
    return (np.arange(axes) * len(pairs) + number[ballots.left, ballots.right][:, None]) * 3 + outcome


def points(counts: np.ndarray, models: int) -> np.ndarray:
    """Returns (models,) the scores that the counts (pairs, 3) of one axis give."""
    xs, ys, winners, index = _rows(models)
    weights = counts + np.array([PRIOR, PRIOR, 0])
    fit = evalica.bradley_terry(xs, ys, winners, index=index, weights=weights.ravel(), limit=STEPS)
    strength = fit.scores.to_numpy()[np.argsort(fit.scores.index.to_numpy())]
    chances = strength[:, None] / (strength[:, None] + strength)
    return 100 * (chances.sum(1) - 0.5) / (models - 1)  # without the model itself, at 1/2


def newman_points(counts: np.ndarray, models: int) -> np.ndarray | None:
    """Returns the scores by Newman's model, or None where evalica's iteration swings between two states.

    It does so where next to nothing is a tie and the pairs with votes form no triangle, as with two models.
    """
    xs, ys, winners, index = _rows(models)
    weights = counts + np.array([PRIOR, PRIOR, 0])
    fit = evalica.newman(xs, ys, winners, index=index, weights=weights.ravel(), limit=STEPS)
    if fit.iterations >= STEPS:
        return None
    strength = fit.scores.to_numpy()[np.argsort(fit.scores.index.to_numpy())]
    even = fit.v * np.sqrt(strength[:, None] * strength)
    chances = (strength[:, None] + even) / (strength[:, None] + strength + 2 * even)  # a tie as half
    return 100 * (chances.sum(1) - 0.5) / (models - 1)


@dataclass(frozen=True)
class Spread:
    """What two-way resampling says of statistics (S,): their variance, and the degrees of freedom of Student's t."""

    variance: np.ndarray
    freedom: np.ndarray

    def reach(self) -> np.ndarray:
        """Returns (S,) half the width of the 95 % interval."""
        return t.ppf((1 + LEVEL) / 2, self.freedom) * np.sqrt(self.variance)


def two_way_spread(
    columns: np.ndarray, ballots: Ballots, width: int, statistic: Statistic, *, draws: int = DRAWS, seed: int = 0
) -> Spread:
    """Returns the spread of statistics of counted votes, over prompts and raters.

    Args:
        columns: (V, n) the columns in which each vote counts one.
        ballots: the V votes.
        width: number of columns.
        statistic: maps counts (draws, width) to statistics (draws, S), each row for itself.
        draws: resamples of each of the three kinds.
        seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    variances, freedoms = [], []
    for table, numbers in _tables(columns, ballots, width):
        total = int(numbers.sum())
        if total < 2:  # one rater or prompt: it cannot be resampled, and what is found holds for it alone
            variances.append(None)
            continue
        drawn = statistic(rng.multinomial(total, numbers / total, draws) @ table)
        variances.append(drawn.var(0, ddof=1) * total / (total - 1))
        freedoms.append(total - 1.0)
    return _joined(variances, freedoms)


def _tables(columns: np.ndarray, ballots: Ballots, width: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields what is resampled, prompts, raters, votes: their counts (n, width), and how often each is there (n,)."""
    for names in (ballots.prompt, ballots.rater):
        distinct, cluster = np.unique(names, return_inverse=True)
        table = np.zeros((len(distinct), width))
        np.add.at(table, (cluster[:, None], columns), 1)
        yield table, np.ones(len(distinct))
    alike, numbers = np.unique(columns, axis=0, return_counts=True)
    table = np.zeros((len(alike), width))
    np.add.at(table, (np.arange(len(alike))[:, None], alike), 1)
    yield table, numbers


def _joined(variances: list, freedoms: list[float]) -> Spread:
    known = [variance for variance in variances if variance is not None]
    if not known:
        raise ValueError("two votes at least are needed")
    if variances[0] is None or variances[1] is None:
        either = next((variance for variance in variances[:2] if variance is not None), known[-1])
        return Spread(either, np.full(either.shape, freedoms[0]))
    prompts, raters, votes = known
    variance = np.maximum(prompts + raters - votes, np.maximum(prompts, raters))
    # Satterthwaite's: what each kind adds, with the freedom of its number.
    added = np.maximum(np.stack([prompts - votes, raters - votes, votes]), 0)
    below = sum(part**2 / max(freedom, 1.0) for part, freedom in zip(added, freedoms, strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = np.where(below > 0, added.sum(0) ** 2 / below, freedoms[-1])
    return Spread(variance, np.maximum(freedom, 1.0))


def on_line(score: np.ndarray) -> np.ndarray:
    """Maps points in (0, 100) to log odds, where intervals are symmetric."""
    share = np.clip(score / 100, 1e-9, 1 - 1e-9)
    return np.log(share / (1 - share))


def from_line(odds: np.ndarray) -> np.ndarray:
    """Maps log odds back to points."""
    return 100 / (1 + np.exp(-odds))
