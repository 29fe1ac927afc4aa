"""What votes say of the models: scores with intervals, differences, the sides, how few votes decide, and power.

Every interval is of 95 % and over prompts and raters alike, see `strengths`.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from nami_jax.nami1k.ballots import LEFT, RIGHT, Ballots
from nami_jax.nami1k.strengths import (
    DRAWS,
    LEVEL,
    from_line,
    on_line,
    pair_counts,
    points,
    two_way_spread,
    vote_columns,
)

POWER = 0.8
# Standard errors between 0 and a difference that is told from it in 4 of 5 arenas.
NEEDED = float(norm.ppf((1 + LEVEL) / 2) + norm.ppf(POWER))


@dataclass(frozen=True)
class Statement:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Scores:
    """What a set of votes says of each model, and of each two of them.

    Attributes:
        scores: of each model, in points from 0 to 100.
        differences: (first, second) models -> the first's score minus the second's.
        errors: the standard error of each difference, in points.
    """

    scores: tuple[Statement, ...]
    differences: dict[tuple[int, int], Statement]
    errors: dict[tuple[int, int], float]


def state_scores(ballots: Ballots, mixtures: np.ndarray, draws: int = DRAWS) -> list[Scores]:
    """Returns the scores on each of several mixtures of axes.

    Args:
        ballots: votes that count, two at least.
        mixtures: (mixtures, axes) weights, which sum to 1 in each row: one axis, or a weighted score.
        draws: of each kind of resampling.
    """
    models, axes = len(ballots.models), mixtures.shape[1]
    used = np.flatnonzero(mixtures.any(0))
    pairs = list(itertools.combinations(range(models), 2))
    firsts, seconds = (np.array(side) for side in zip(*pairs, strict=True))
    width = axes * len(pairs) * 3

    def mixed(counts: np.ndarray) -> np.ndarray:
        """Returns (draws, mixtures, models) scores in points."""
        by_axis = counts.reshape(len(counts), axes, len(pairs), 3)
        found = np.array([[points(one[axis], models) for axis in used] for one in by_axis])
        return np.einsum("ma,dab->dmb", mixtures[:, used], found)

    def statistic(counts: np.ndarray) -> np.ndarray:
        found = mixed(counts)
        apart = found[..., firsts] - found[..., seconds]
        return np.concatenate([on_line(found), apart], -1).reshape(len(counts), -1)

    spread = two_way_spread(vote_columns(ballots), ballots, width, statistic, draws=draws)
    reach = spread.reach().reshape(len(mixtures), -1)
    error = np.sqrt(spread.variance).reshape(len(mixtures), -1)
    value = mixed(pair_counts(ballots).reshape(1, -1))[0]
    return [
        Scores(
            _on_scores(row, far[:models]), _apart(row, far[models:], pairs), dict(zip(pairs, of[models:], strict=True))
        )
        for row, far, of in zip(value, reach, error.astype(float), strict=True)
    ]


def _on_scores(value: np.ndarray, reach: np.ndarray) -> tuple[Statement, ...]:
    line = on_line(value)
    ends = zip(value, from_line(line - reach), from_line(line + reach), strict=True)
    return tuple(Statement(*map(float, end)) for end in ends)


def _apart(value: np.ndarray, reach: np.ndarray, pairs: Sequence[tuple[int, int]]) -> dict[tuple[int, int], Statement]:
    found = {}
    for (i, j), far in zip(pairs, reach, strict=True):
        apart = value[i] - value[j]
        found[i, j] = Statement(float(apart), float(apart - far), float(apart + far))
    return found


def one_axis(axis: int, axes: int) -> np.ndarray:
    """Returns the mixture (1, axes) of one axis."""
    return np.eye(axes)[[axis]]


def state_side_bias(ballots: Ballots, axis: int, draws: int = DRAWS) -> Statement:
    """Returns by how many points the left side's share of decided votes is above 50 %."""

    def statistic(counts: np.ndarray) -> np.ndarray:
        left, right = counts[:, 0], counts[:, 1]
        return (100 * left / np.maximum(left + right, 1) - 50)[:, None]

    answers = ballots.answers[:, axis]
    column = np.select([answers == LEFT, answers == RIGHT], [0, 1], 2)[:, None]
    spread = two_way_spread(column, ballots, 3, statistic, draws=draws)
    value = float(statistic(np.bincount(column.ravel(), minlength=3)[None])[0, 0])
    reach = float(spread.reach()[0])
    return Statement(value, value - reach, value + reach)


@dataclass(frozen=True)
class Flip:
    """How few votes, left out, would take a model from the first place.

    Attributes:
        first: the model that has it.
        rival: that would then be as good or better.
        votes: this many suffice; fewer may, as they are sought greedily.
        of: all votes.
    """

    first: int
    rival: int
    votes: int
    of: int


def votes_to_flip(counts: np.ndarray, models: int) -> Flip:
    """Seeks the fewest votes of one axis, counts (pairs, 3), without which another model is first.

    Source: Huang, Shen, Kim and Broderick, "Dropping just a handful of preferences can change top large language model
    rankings", arXiv 2508.11847. There by influence, here by refitting, which the few kinds of votes allow.
    """
    score = points(counts, models)
    first = int(score.argmax())
    flips = [
        Flip(first, rival, _fewest(counts, models, first, rival), int(counts.sum()))
        for rival in range(models)
        if rival != first
    ]
    return min(flips, key=lambda flip: flip.votes)


def _fewest(counts: np.ndarray, models: int, first: int, rival: int) -> int:
    def lead(cells: np.ndarray) -> float:
        score = points(cells.reshape(-1, 3), models)
        return float(score[first] - score[rival])

    def without(cell: int, number: int) -> np.ndarray:
        fewer = left.copy()
        fewer[cell] -= number
        return fewer

    left, removed = counts.astype(float).ravel(), 0
    while (now := lead(left)) > 0:
        gains = {cell: now - lead(without(cell, 1)) for cell in np.flatnonzero(left >= 1).tolist()}
        best = max(gains, key=gains.__getitem__, default=None)
        if best is None or gains[best] <= 0:
            break
        # As many as would do if each took as much as the first, and no more than a tenth of them at once.
        number = min(math.ceil(now / gains[best]), max(1, int(left[best]) // 10), int(left[best]))
        while number > 1 and lead(without(best, number)) <= 0 and lead(without(best, number - 1)) <= 0:
            number -= 1
        left = without(best, number)
        removed += number
    return removed


@dataclass(frozen=True)
class Power:
    """What an arena of this make could tell.

    Attributes:
        smallest: the smallest difference, in points, that the votes there are tell from 0 in 4 of 5 such arenas.
        votes: how many would tell `goal` points, if prompts and raters grow with them.
        goal: in points.
    """

    smallest: float
    votes: int
    goal: float


def power(error: float, votes: int, goal: float = 2.0) -> Power:
    """Returns what the standard error of a difference, in points, means for its detection."""
    smallest = NEEDED * float(error)
    return Power(smallest, math.ceil(votes * (smallest / goal) ** 2), goal)
