"""Attention checks, and agreement with others and oneself, on votes made by hand."""

import pytest

from nami_jax.nami1k.questions import AXES
from nami_jax.nami1k.rater_checks import agreement, failed_checks, rater_records, self_agreement
from tests.support.ballots import made_ballots

OVERALL = AXES.index("overall")


def test_what_fails_a_check():
    cases = [
        ("noised", 0, "right", False),
        ("noised", 0, "left", True),
        ("noised", 0, "tie", True),
        ("noised", 1, "left", False),
        ("noised", 1, "both_bad", True),
        ("other_prompt", 0, "left", True),
        ("other_prompt", 0, "tie", False),
        ("other_prompt", 0, "both_bad", False),
        ("other_prompt", 1, "left", False),
        ("pair", -1, "left", False),
    ]
    ballots = made_ballots(
        [(0, 0, 0, 0, answer) for _, _, answer, _ in cases], kinds=[(kind, side, -1) for kind, side, _, _ in cases]
    )
    assert failed_checks(ballots).tolist() == [fails for *_, fails in cases]


def test_only_the_axis_that_a_check_is_about_decides():
    answers = dict.fromkeys(AXES, "left")
    other = made_ballots(
        [(0, 0, 0, 0, tuple((answers | {"relevance": "right"}).values()))], kinds=[("other_prompt", 0, -1)]
    )
    noised = made_ballots([(0, 0, 0, 0, tuple((answers | {"overall": "right"}).values()))], kinds=[("noised", 0, -1)])
    assert not failed_checks(other).any()
    assert not failed_checks(noised).any()


@pytest.mark.parametrize(
    ("failed", "checks", "aside"), [(1, 1, False), (2, 8, False), (2, 7, True), (4, 4, True), (0, 5, False)]
)
def test_who_is_set_aside(failed, checks, aside):
    answers = ["left"] * failed + ["right"] * (checks - failed)
    kinds = [("noised", 0, -1)] * checks + [("pair", -1, -1)] * 2
    votes = [(0, 0, 0, 0, answer) for answer in answers] + [(0, 0, 0, 1, "left"), (0, 1, 1, 0, "tie")]
    record = rater_records(made_ballots(votes, kinds=kinds))[0]
    assert (record.votes, record.checks, record.failed) == (2, checks, failed)
    assert record.set_aside is aside
    assert record.left == 1.0
    assert record.seconds == 4.0


def test_raters_who_agree_whatever_the_sides():
    votes = []
    for prompt in range(6):
        winner = prompt % 2
        for rater in range(3):
            left = (rater + prompt) % 2
            votes.append((rater, prompt, left, 1 - left, "left" if left == winner else "right"))
    found = agreement(made_ballots(votes), OVERALL)
    assert (found.alpha, found.pairs) == (pytest.approx(1.0), 6)


def test_agreement_worked_by_hand():
    # Two raters, four pairs: A A, A A, B B, A B. Krippendorff: observed 2 of 8 values differ from their partner;
    # of 5 A and 3 B, 2 * 5 * 3 of 8 * 7 ordered pairs differ.
    answers = [("left", "left"), ("left", "left"), ("right", "right"), ("left", "right")]
    votes = [(rater, prompt, 0, 1, both[rater]) for prompt, both in enumerate(answers) for rater in (0, 1)]
    votes.append((0, 9, 0, 1, "tie"))  # by one rater alone: says nothing
    found = agreement(made_ballots(votes), OVERALL)
    assert found.alpha == pytest.approx(1 - (2 / 8) / (30 / 56))
    assert found.pairs == 4


def test_nothing_to_agree_on_is_no_number():
    assert agreement(made_ballots([(0, 0, 0, 1, "left"), (1, 1, 0, 1, "left")]), OVERALL).alpha is None
    assert agreement(made_ballots([(0, 0, 0, 1, "left"), (1, 0, 0, 1, "left")]), OVERALL).alpha is None


def test_pairs_that_were_shown_again():
    votes = [
        (0, 0, 0, 1, "left"), (0, 1, 0, 1, "left"), (0, 2, 0, 1, "tie"), (0, 3, 0, 1, "both_bad"),
        (0, 0, 1, 0, "right"), (0, 1, 1, 0, "left"), (0, 2, 1, 0, "left"), (0, 3, 1, 0, "both_bad"),
    ]  # fmt: skip
    kinds = [("pair", -1, -1)] * 4 + [("repeat", -1, i) for i in range(4)]
    found = self_agreement(made_ballots(votes, kinds=kinds), OVERALL)
    assert (found.repeated, found.same, found.opposite) == (4, 2, 1)
