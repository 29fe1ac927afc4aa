"""Which two pictures a rater sees next, and on which sides.

Of all pairs of models the one comes next that has been shown least for its weight, and of its prompts one that has been
shown least with it. A pair's weight is 1 + 4 p (1 - p), where p is how often its first model was preferred so far: so a
pair that is even is shown up to twice as often as one whose winner is plain, and within a pair all prompts are seen
evenly. What else stands in a rater's row, twenty places at a time in an order of its own: two pairs that all raters
get, from which their agreement is known, one attention check, and one pair of their own again with its sides swapped.
"""

import itertools
import random
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from nami_jax.nami1k.showings import Assignment, Showing

BLOCK = 20  # places that are planned together
PLAN = ("shared", "shared", "check", "repeat", *["pair"] * (BLOCK - 4))
SHARED = 20  # pairs that all raters get, if there are five times as many
EVEN = 5.0  # votes at p = 1/2 that each pair begins with, so that the first few do not decide its weight
APART = 5  # places at least between a pair and its repetition


class Pairing:
    """What has been shown to whom, and what comes next. A server that starts again builds it from the votes file."""

    def __init__(self, prompts: Sequence[str], models: int, seed: str):
        """Takes the ids of the prompts, the number of models (2 or more), and what decides all random choices."""
        self.prompts, self.models, self._seed = tuple(prompts), models, seed
        self.pairs = tuple(itertools.combinations(range(models), 2))
        self._row = {prompt: i for i, prompt in enumerate(self.prompts)}
        self._column = {pair: i for i, pair in enumerate(self.pairs)}
        self.counts = np.zeros((len(self.prompts), len(self.pairs)), np.int64)
        self.tally = np.zeros((len(self.pairs), 2))  # preferred so far: the first model, the second
        self._shown: dict[int, np.ndarray] = {}  # rater -> (prompts, pairs) bool
        self._history: dict[int, list[Assignment]] = {}
        self._leaning = np.zeros(len(self.pairs), np.int64)  # first model on the left, less on the right
        self._leaning_of: dict[int, np.ndarray] = {}
        chosen = random.Random(f"{seed}:shared").sample(range(self.counts.size), min(SHARED, self.counts.size // 5))
        self.shared = [divmod(cell, len(self.pairs)) for cell in chosen]
        self._reserved = np.zeros(self.counts.shape, bool)
        for cell in self.shared:
            self._reserved[cell] = True

    def cell(self, showing: Showing) -> tuple[int, int]:
        """Returns the indices of a showing's prompt and pair of models."""
        pair = (min(showing.left, showing.right), max(showing.left, showing.right))
        return self._row[showing.prompt], self._column[pair]

    def add(self, assignment: Assignment) -> None:
        """Takes note of what was given to a rater."""
        showing, rater = assignment.showing, assignment.rater
        self._history.setdefault(rater, []).append(assignment)
        if showing.kind not in ("pair", "shared"):
            return
        row, column = self.cell(showing)
        self.counts[row, column] += 1
        self._seen(rater)[row, column] = True
        lean = 1 if showing.left < showing.right else -1
        self._leaning[column] += lean
        self._leaning_of.setdefault(rater, np.zeros(len(self.pairs), np.int64))[column] += lean

    def add_answer(self, showing: Showing, answer: str, times: int = 1) -> None:
        """Takes note of an answer about a pair as a whole; `times` = -1 takes it back."""
        if showing.kind not in ("pair", "shared"):
            return
        _, column = self.cell(showing)
        first = showing.left if showing.left < showing.right else showing.right
        half = 0.5 if answer not in ("left", "right") else float((showing.left == first) == (answer == "left"))
        self.tally[column] += times * np.array([half, 1 - half])

    def next(self, rater: int, place: int) -> Showing | None:
        """Returns what a rater is shown at a place of their row; None if they have seen all pairs."""
        dice = random.Random(f"{self._seed}:{rater}:{place}")
        kind = self._planned(rater, place)
        found = None
        if kind == "shared":
            found = self._next_shared(rater, dice)
        elif kind == "check":
            found = self._next_check(rater, place, dice)
        elif kind == "repeat":
            found = self._next_repeat(rater, place, dice)
        return found or self._next_pair(rater, dice) or self._next_shared(rater, dice)

    def weights(self) -> np.ndarray:
        """Returns each pair's share of the showings, from 1 for a plain winner to 2 for an even pair."""
        preferred = (self.tally[:, 0] + EVEN / 2) / (self.tally.sum(1) + EVEN)
        return 1 + 4 * preferred * (1 - preferred)

    def _planned(self, rater: int, place: int) -> str:
        plan = list(PLAN)
        random.Random(f"{self._seed}:{rater}:block {place // BLOCK}").shuffle(plan)
        return plan[place % BLOCK]

    def _seen(self, rater: int) -> np.ndarray:
        return self._shown.setdefault(rater, np.zeros(self.counts.shape, bool))

    def _next_pair(self, rater: int, dice: random.Random) -> Showing | None:
        closed = self._seen(rater) | self._reserved
        left = ~closed.all(0)
        if not left.any():
            return None
        shown = np.where(left, self.counts.sum(0) / self.weights(), np.inf)
        column = dice.choice(np.flatnonzero(shown == shown.min()).tolist())
        # Fewest showings first, then prompts that this rater has seen fewest times, then any.
        order = self.counts[:, column] * (len(self.pairs) + 1) + self._seen(rater).sum(1)
        order = np.where(closed[:, column], np.iinfo(np.int64).max, order)
        row = dice.choice(np.flatnonzero(order == order.min()).tolist())
        return self._placed("pair", rater, (row, column), dice)

    def _next_shared(self, rater: int, dice: random.Random) -> Showing | None:
        left = [cell for cell in self.shared if not self._seen(rater)[cell]]
        return self._placed("shared", rater, left[0], dice) if left else None

    def _placed(self, kind: str, rater: int, cell: tuple[int, int], dice: random.Random) -> Showing:
        """Tosses for the sides by a coin that leans back to balance: for this rater and pair, else for the pair."""
        row, column = cell
        lean = int(self._leaning_of[rater][column]) if rater in self._leaning_of else 0
        lean = lean or int(np.sign(self._leaning[column]))
        first, second = self.pairs[column]
        left, right = (first, second) if dice.random() < 0.5 - lean / 4 else (second, first)
        return Showing(kind, self.prompts[row], left, right)

    def _next_check(self, rater: int, place: int, dice: random.Random) -> Showing | None:
        model, spoiled = dice.randrange(self.models), dice.choice(("left", "right"))
        prompt = dice.choice(self.prompts)
        if (place // BLOCK) % 2 == 0 or len(self.prompts) == 1:
            return Showing("noised", prompt, model, model, spoiled)
        other = dice.choice([name for name in self.prompts if name != prompt])
        return Showing("other_prompt", prompt, model, model, spoiled, other)

    def _next_repeat(self, rater: int, place: int, dice: random.Random) -> Showing | None:
        history = self._history.get(rater, [])
        done = {assignment.showing.repeats for assignment in history}
        old = [
            assignment
            for assignment in history
            if assignment.showing.kind in ("pair", "shared")
            and assignment.place <= place - APART
            and assignment.sequence not in done
        ]
        if not old:
            return None
        again = dice.choice(old)
        showing = again.showing
        return Showing("repeat", showing.prompt, showing.right, showing.left, repeats=again.sequence)


def rebuilt(pairing: Pairing, assignments: Iterable[Assignment], overall: Mapping[int, str]) -> Pairing:
    """Tells a new pairing what a votes file holds: its assignments, and the overall answer by sequence number."""
    for assignment in assignments:
        pairing.add(assignment)
        if assignment.sequence in overall:
            pairing.add_answer(assignment.showing, overall[assignment.sequence])
    return pairing
