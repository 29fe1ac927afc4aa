"""Scores worked by hand, and the spread over prompts and raters against closed forms."""

import itertools

import numpy as np
import pytest

from nami_jax.nami1k.strengths import (
    PRIOR,
    Spread,
    from_line,
    newman_points,
    on_line,
    pair_counts,
    points,
    two_way_spread,
)
from tests.support.ballots import made_ballots


def test_the_score_of_two_models_is_the_share_of_wins_with_ties_as_half():
    share = (60 + PRIOR + 5) / (100 + 2 * PRIOR)
    for scores in (points, newman_points):
        assert scores(np.array([[60, 30, 10]]), 2) == pytest.approx([100 * share, 100 * (1 - share)], abs=1e-3)


def endless_counts(strength, v):
    counts = []
    for i, j in itertools.combinations(range(3), 2):
        even = 2 * v * np.sqrt(strength[i] * strength[j])
        counts.append(np.array([strength[i], strength[j], even]) / (strength[i] + strength[j] + even) * 1e8)
    return np.array(counts)


def test_endless_votes_give_the_scores_of_their_model():
    strength = np.array([2.0, 1.0, 0.5])
    plain = endless_counts(strength, 0)
    expected = 50 * ((strength[:, None] / (strength[:, None] + strength)).sum(1) - 0.5)
    assert points(plain, 3) == pytest.approx(expected, abs=1e-3)
    tied = endless_counts(strength, 0.3)
    share = (tied[:, 0] + tied[:, 2] / 2) / 1e8  # of pairs (0, 1), (0, 2), (1, 2)
    expected = 50 * np.array([share[0] + share[1], 1 - share[0] + share[2], 2 - share[1] - share[2]])
    assert newman_points(tied, 3) == pytest.approx(expected, abs=1e-3)
    assert points(tied, 3) == pytest.approx(expected, abs=0.2)  # near, as ties are not of its model


def test_two_models_without_ties_have_scores_and_newman_has_none():
    assert points(np.array([[7, 10, 0]]), 2) == pytest.approx([100 * 7.25 / 17.5, 100 * 10.25 / 17.5], abs=1e-3)
    assert newman_points(np.array([[7, 10, 0]]), 2) is None


def test_a_model_that_never_lost_and_no_votes_at_all_have_scores():
    best = points(np.array([[50, 0, 0], [50, 0, 0], [20, 30, 0]]), 3)
    assert 95 < best[0] < 100
    assert best[2] > best[1]
    assert points(np.zeros((3, 3)), 3) == pytest.approx([50] * 3)


def test_scores_do_not_depend_on_numbers_or_sides():
    rng = np.random.default_rng(0)
    votes = [(0, i, *rng.permutation(3)[:2], rng.choice(["left", "right", "tie", "both_bad"])) for i in range(80)]
    swapped = [(r, p, b, a, {"left": "right", "right": "left"}.get(answer, answer)) for r, p, a, b, answer in votes]
    renamed = [(r, p, 2 - a, 2 - b, answer) for r, p, a, b, answer in votes]
    names = ("A", "B", "C")
    score = points(pair_counts(made_ballots(votes, names))[0], 3)
    assert points(pair_counts(made_ballots(swapped, names))[0], 3) == pytest.approx(score)
    assert points(pair_counts(made_ballots(renamed, names))[0], 3)[::-1] == pytest.approx(score, abs=1e-3)


def test_counts_by_axis_and_pair():
    answers = ("left", "right", "tie", "both_bad", "right")
    ballots = made_ballots([(0, 0, 2, 0, answers)], ("A", "B", "C"))
    expected = np.zeros((5, 3, 3))
    expected[range(5), 1, [1, 0, 2, 2, 0]] = 1  # of the pair (0, 2), whose second model stood on the left
    assert np.array_equal(pair_counts(ballots), expected)


def share_of_wins(counts):
    return (counts[:, 0] / counts.sum(1))[:, None]


def spread_of(votes) -> Spread:
    ballots = made_ballots(votes)
    columns = (ballots.preferred()[:, :1] == -1).astype(int)
    return two_way_spread(columns, ballots, 2, share_of_wins, draws=4000)


def test_votes_that_are_independent_have_the_binomial_variance():
    spread = spread_of([(i, i, 0, 1, "left" if i % 4 else "right") for i in range(200)])
    assert spread.variance == pytest.approx([0.75 * 0.25 / 200], rel=0.1)
    assert spread.reach() == pytest.approx([1.97 * np.sqrt(0.75 * 0.25 / 200)], rel=0.05)


@pytest.mark.parametrize("by", ["prompt", "rater"])
def test_votes_that_a_prompt_or_rater_decides_count_as_one(by):
    votes = []
    for cluster in range(40):
        for vote in range(25):
            who = (vote, cluster) if by == "prompt" else (cluster, vote)
            votes.append((*who, 0, 1, "left" if cluster % 4 else "right"))
    spread = spread_of(votes)
    assert spread.variance == pytest.approx([0.75 * 0.25 / 39], rel=0.15)
    assert 30 < spread.freedom[0] < 60


def test_prompts_and_raters_add_up():
    rng = np.random.default_rng(1)
    easy, kind = rng.normal(0, 0.5, 60), rng.normal(0, 0.5, 60)
    chance = np.clip(0.5 + 0.3 * (easy[:, None] + kind), 0, 1)
    answers = np.where(rng.random((60, 60)) < chance, "left", "right")
    votes = [(r, p, 0, 1, str(answers[p, r])) for p in range(60) for r in range(60)]
    wins = answers == "left"
    expected = wins.mean(1).var(ddof=1) / 60 + wins.mean(0).var(ddof=1) / 60 - wins.var() / 3600
    assert spread_of(votes).variance == pytest.approx([expected], rel=0.15)


def test_one_rater_has_an_interval_over_prompts_alone():
    spread = spread_of([(0, i, 0, 1, "left" if i % 2 else "right") for i in range(100)])
    assert spread.variance == pytest.approx([0.25 / 99], rel=0.1)
    assert spread.freedom == pytest.approx([99])
    with pytest.raises(ValueError, match="two votes"):
        spread_of([(0, 0, 0, 1, "left")])


def test_the_line_of_log_odds_and_back():
    score = np.array([1.0, 50.0, 99.0])
    assert on_line(score)[1] == 0
    assert from_line(on_line(score)) == pytest.approx(score)
