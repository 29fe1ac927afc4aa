"""Pairs are shown evenly, even ones more, sides in balance, and a server that starts again goes on alike."""

import collections
import itertools

import numpy as np
import pytest

from nami_jax.nami1k.pairing import BLOCK, Pairing, rebuilt
from nami_jax.nami1k.showings import Assignment, Showing

PROMPTS = [f"p{i}" for i in range(60)]


def give(pairing: Pairing, rater: int, count: int, prefer=None) -> list[Assignment]:
    """Gives a rater so many assignments, and lets `prefer(showing)` answer."""
    given = []
    for place in range(count):
        showing = pairing.next(rater, place)
        if showing is None:
            break
        assignment = Assignment(1000 * rater + place, f"{rater}-{place}", rater, place, showing)
        pairing.add(assignment)
        given.append(assignment)
        if prefer:
            pairing.add_answer(showing, prefer(showing))
    return given


def pair_of(assignment: Assignment) -> tuple[str, int]:
    return assignment.showing.prompt, assignment.showing.left + assignment.showing.right


def test_within_a_pair_all_prompts_are_shown_evenly():
    pairing = Pairing(PROMPTS, 3, "seed")
    for rater in range(6):
        give(pairing, rater, 100)
    open_cells = np.ones(pairing.counts.shape, bool)
    for cell in pairing.shared:
        open_cells[cell] = False
    for column in range(3):
        counts = pairing.counts[open_cells[:, column], column]
        assert counts.max() - counts.min() <= 1


def test_an_even_pair_is_shown_up_to_twice_as_often():
    pairing = Pairing(PROMPTS, 3, "seed")

    def worst_wins_never(showing):
        if {showing.left, showing.right} == {0, 1}:
            return "tie"
        return "right" if showing.left == 2 else "left"

    for rater in range(8):
        give(pairing, rater, 100, worst_wins_never)
    shown = pairing.counts.sum(0)  # pairs (0, 1), (0, 2), (1, 2)
    assert shown[0] / shown[1:] == pytest.approx([2, 2], rel=0.15)


def test_weights_worked_by_hand():
    pairing = Pairing(PROMPTS, 2, "seed")
    assert pairing.weights() == pytest.approx([2])
    for _ in range(5):
        pairing.add_answer(Showing("pair", "p0", 1, 0), "right")  # model 0 is preferred
    assert pairing.tally.tolist() == [[5, 0]]
    assert pairing.weights() == pytest.approx([1 + 4 * 0.75 * 0.25])  # (5 + 2.5) / (5 + 5)
    pairing.add_answer(Showing("pair", "p0", 1, 0), "right", -1)
    pairing.add_answer(Showing("repeat", "p0", 1, 0), "right")
    assert pairing.tally.tolist() == [[4, 0]]


def test_no_rater_sees_a_pair_twice_but_as_a_repetition_with_sides_swapped():
    given = give(Pairing(PROMPTS, 3, "seed"), 1, 500)
    fresh = [a for a in given if a.showing.kind in ("pair", "shared")]
    assert (
        len(fresh) == len({(a.showing.prompt, a.showing.left + a.showing.right) for a in fresh}) == 180
    )  # all there are
    by_sequence = {a.sequence: a for a in given}
    repeats = [a for a in given if a.showing.kind == "repeat"]
    assert len(repeats) >= 8
    for again in repeats:
        assert again.showing.repeats is not None
        old = by_sequence[again.showing.repeats]
        assert (old.showing.left, old.showing.right) == (again.showing.right, again.showing.left)
        assert again.place - old.place >= 5
    assert len({a.showing.repeats for a in repeats}) == len(repeats)


def test_each_block_has_its_checks():
    given = give(Pairing(PROMPTS, 2, "seed"), 1, 2 * BLOCK)
    kinds = [collections.Counter(a.showing.kind for a in given[i : i + BLOCK]) for i in (0, BLOCK)]
    assert kinds[0]["noised"] == kinds[1]["other_prompt"] == 1
    assert [kind["shared"] for kind in kinds] == [2, 2]
    for a in given:
        if a.showing.kind == "other_prompt":
            assert a.showing.other_prompt != a.showing.prompt
            assert a.showing.left == a.showing.right


def test_all_raters_get_the_same_shared_pairs():
    pairing = Pairing(PROMPTS, 3, "seed")
    found = [
        {
            (a.showing.prompt, a.showing.left + a.showing.right)
            for a in give(pairing, rater, 60)
            if a.showing.kind == "shared"
        }
        for rater in range(4)
    ]
    assert found[0] == found[1] == found[2] == found[3]
    assert len(found[0]) == 6


def test_sides_are_balanced_for_each_rater_and_pair_and_not_foreseeable():
    pairing, sides = Pairing(PROMPTS, 2, "seed"), []
    for rater in range(40):
        given = [a for a in give(pairing, rater, 40) if a.showing.kind in ("pair", "shared")]
        left = [a.showing.left == 0 for a in given]
        sides += left
        assert abs(2 * sum(left) - len(left)) <= 2
    assert abs(2 * sum(sides) - len(sides)) < 2 * 40
    repeats = np.mean([a == b for a, b in itertools.pairwise(sides)])
    assert 0.2 < repeats < 0.5  # strict alternation would be 0


def test_a_pairing_built_from_the_file_goes_on_alike():
    first = Pairing(PROMPTS, 3, "seed")
    given = give(first, 1, 30) + give(first, 2, 25)
    answers = {a.sequence: "left" for a in given[:40]}
    for a in given[:40]:
        first.add_answer(a.showing, "left")
    again = rebuilt(Pairing(PROMPTS, 3, "seed"), given, answers)
    assert (again.counts == first.counts).all()
    assert (again.tally == first.tally).all()
    assert [again.next(1, 30), again.next(2, 25), again.next(3, 0)] == [
        first.next(1, 30),
        first.next(2, 25),
        first.next(3, 0),
    ]


def test_a_row_ends_when_all_pairs_are_seen():
    pairing = Pairing(["only"], 2, "seed")
    kinds = [a.showing.kind for a in give(pairing, 1, 100)]
    assert kinds.count("pair") == 1
    assert len(kinds) < BLOCK
