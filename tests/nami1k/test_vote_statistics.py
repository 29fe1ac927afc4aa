"""Statements about models and sides, and how few votes decide, against cases worked by hand and by trying all."""

import itertools

import numpy as np
import pytest

from nami_jax.nami1k.questions import AXES
from nami_jax.nami1k.strengths import points
from nami_jax.nami1k.vote_statistics import one_axis, power, state_scores, state_side_bias, votes_to_flip
from tests.support.ballots import even_votes, made_ballots


def test_the_weighted_score_is_the_mean_of_its_axes():
    rng = np.random.default_rng(0)
    votes = [(i % 5, i, 0, 1, tuple(rng.choice(["left", "right", "tie"], 5))) for i in range(60)]
    mixtures = np.concatenate([np.eye(5), [[0.5, 0.5, 0, 0, 0]]])
    stated = state_scores(made_ballots(votes), mixtures, draws=60)
    for model in (0, 1):
        value = [scores.scores[model].value for scores in stated]
        assert value[5] == pytest.approx((value[0] + value[1]) / 2)
    for scores in stated:
        assert all(0 < score.low < score.value < score.high < 100 for score in scores.scores)
        apart = scores.differences[0, 1]
        assert apart.value == pytest.approx(scores.scores[0].value - scores.scores[1].value)
        assert apart.low < apart.value < apart.high
        assert scores.errors[0, 1] > 0


def test_plain_winners_are_told_apart_and_even_models_are_not():
    plain = [(r, p, 0, 1, "left") for r in range(6) for p in range(20)]
    for votes, told in ((plain, True), (even_votes(6, 20, 0.8), False)):
        apart = state_scores(made_ballots(votes), one_axis(4, len(AXES)), draws=100)[0].differences[0, 1]
        assert (apart.low > 0) is told


def test_side_bias_worked_by_hand():
    votes = [(i % 4, i, i % 2, 1 - i % 2, "left" if i < 30 else "right" if i < 40 else "tie") for i in range(50)]
    bias = state_side_bias(made_ballots(votes), AXES.index("overall"))
    assert bias.value == pytest.approx(25)  # 30 of 40
    assert bias.low < 25 < bias.high
    none = state_side_bias(made_ballots(even_votes(6, 30, 0.5)), AXES.index("overall"))
    assert none.low < 0 < none.high


def test_as_few_votes_flip_two_models_as_lie_between_them():
    flip = votes_to_flip(np.array([[10, 7, 4]]), 2)
    assert (flip.first, flip.rival, flip.votes, flip.of) == (0, 1, 3, 21)
    assert votes_to_flip(np.array([[7, 10, 0]]), 2).first == 1
    assert votes_to_flip(np.array([[1000, 400, 0]]), 2).votes == 600
    assert votes_to_flip(np.array([[5, 5, 0]]), 2).votes == 0


def fewest_by_trying_all(counts, most=4):
    first = points(counts, 3).argmax()
    for removed in range(most + 1):
        for cells in itertools.combinations_with_replacement(range(9), removed):
            left = counts.ravel() - np.bincount(cells, minlength=9)
            score = points(left.reshape(3, 3), 3)
            if left.min() >= 0 and np.delete(score, first).max() >= score[first]:
                return removed
    raise AssertionError("more")


@pytest.mark.parametrize("seed", range(4))
def test_the_votes_that_flip_three_models_are_nearly_the_fewest(seed):
    counts = np.random.default_rng(seed).integers(3, 7, (3, 3))
    fewest, found = fewest_by_trying_all(counts), votes_to_flip(counts, 3).votes
    assert fewest <= found <= fewest + 1


def test_power_worked_by_hand():
    found = power(error=1.0, votes=100, goal=2.0)
    assert found.smallest == pytest.approx(1.96 + 0.84, abs=0.01)
    assert found.votes == 197  # 100 (2.80 / 2)^2
