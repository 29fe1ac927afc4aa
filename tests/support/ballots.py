"""Votes made by hand."""

from collections.abc import Sequence

import numpy as np

from nami_jax.nami1k.ballots import Ballots
from nami_jax.nami1k.questions import ANSWERS, AXES


def made_ballots(
    votes: Sequence[tuple],
    models: Sequence[str] = ("A", "B"),
    kinds: Sequence[tuple[str, int, int]] | None = None,
    simulated: str | None = None,
) -> Ballots:
    """Returns ballots of votes (rater, prompt, left, right, answer); `answer` is one for all axes, or one for each.

    `kinds` gives each vote's kind, spoiled side and repeated sequence number; all are pairs without it.
    """
    kinds = kinds or [("pair", -1, -1)] * len(votes)
    answers = [[vote[4]] * len(AXES) if isinstance(vote[4], str) else vote[4] for vote in votes]
    raters, prompts = (1 + max(vote[i] for vote in votes) for i in (0, 1))
    rater, prompt, left, right = (np.array([vote[i] for vote in votes]) for i in range(4))
    return Ballots(
        models=tuple(models),
        prompts=tuple(f"p{i:03}" for i in range(prompts)),
        raters=tuple(f"rater-{i:02}" for i in range(raters)),
        simulated=(simulated,) * raters,
        sequence=np.arange(len(votes)),
        rater=rater,
        prompt=prompt,
        left=left,
        right=right,
        kind=np.array([kind for kind, _, _ in kinds]),
        spoiled=np.array([spoiled for _, spoiled, _ in kinds]),
        repeats=np.array([repeats for _, _, repeats in kinds]),
        answers=np.array([[ANSWERS.index(answer) for answer in row] for row in answers]),
        milliseconds=np.full(len(votes), 4000),
    )


def even_votes(raters: int, prompts: int, left_wins: float, seed: int = 0) -> list[tuple]:
    """Returns a vote by each rater on each prompt; the left side, which is each model's in turn, wins so often."""
    rng, votes = np.random.default_rng(seed), []
    for rater in range(raters):
        for prompt in range(prompts):
            sides = (0, 1) if (rater + prompt) % 2 else (1, 0)
            votes.append((rater, prompt, *sides, "left" if rng.random() < left_wins else "right"))
    return votes
