"""What votes say of the raters: attention checks, who is set aside, who agrees with others and with themselves."""

from dataclasses import dataclass

import evalica
import numpy as np
import pandas as pd

from nami_jax.nami1k.ballots import BOTH_BAD, COUNTED, LEFT, RIGHT, Ballots
from nami_jax.nami1k.questions import AXES

FAILED_SHARE = 0.25  # of a rater's checks; above it, and with two failures at least, a rater is set aside
FAILED_LEAST = 2


@dataclass(frozen=True)
class RaterRecord:
    """What is known of one rater.

    Attributes:
        name: of the rater.
        votes: that count.
        checks: spoiled pairs that were shown.
        failed: of them, those answered as no one would who looked.
        seconds: median time of a vote.
        left: share of the left side in the decided overall answers, or None without any.
        set_aside: whether the votes are left out of all scores.
    """

    name: str
    votes: int
    checks: int
    failed: int
    seconds: float
    left: float | None
    set_aside: bool


def failed_checks(ballots: Ballots) -> np.ndarray:
    """Returns (V,) whether a vote fails an attention check.

    A picture under noise has to lose against the same picture without, overall. A picture of another prompt must not
    win on relevance; a tie or "both bad" is no failure, since a model may have drawn the right prompt no better.
    """
    overall, relevance = (ballots.answers[:, AXES.index(axis)] for axis in ("overall", "relevance"))
    good, bad = np.where(ballots.spoiled == 0, RIGHT, LEFT), np.where(ballots.spoiled == 0, LEFT, RIGHT)
    noised, other = ballots.kind == "noised", ballots.kind == "other_prompt"
    return (noised & (overall != good)) | (other & (relevance == bad))


def rater_records(ballots: Ballots) -> list[RaterRecord]:
    """Returns the record of each rater who has voted."""
    failed, spoiled = failed_checks(ballots), ballots.spoiled >= 0
    counted = np.isin(ballots.kind, COUNTED)
    overall = ballots.answers[:, AXES.index("overall")]
    records = []
    for rater in np.unique(ballots.rater):
        own = ballots.rater == rater
        checks, bad = int((own & spoiled).sum()), int((own & failed).sum())
        sides = overall[own & counted & np.isin(overall, (LEFT, RIGHT))]
        records.append(
            RaterRecord(
                ballots.raters[rater],
                int((own & counted).sum()),
                checks,
                bad,
                float(np.median(ballots.milliseconds[own]) / 1000),
                float((sides == LEFT).mean()) if len(sides) else None,
                bad >= FAILED_LEAST and bad > FAILED_SHARE * checks,
            )
        )
    return records


@dataclass(frozen=True)
class Agreement:
    """Krippendorff's alpha of what several raters answered on the same pairs: 1 is agreement, 0 chance.

    Attributes:
        alpha: nominal, over one model, the other, tie, both bad; None where there is nothing that could differ.
        pairs: that two raters or more answered.
    """

    alpha: float | None
    pairs: int


def agreement(ballots: Ballots, axis: int) -> Agreement:
    """Returns how well raters agree on one axis, by the pairs that several of them answered."""
    models = len(ballots.models)
    low, high = np.minimum(ballots.left, ballots.right), np.maximum(ballots.left, ballots.right)
    unit = (ballots.prompt * models + low) * models + high
    preferred = ballots.preferred()[:, axis]
    answer = np.where(ballots.answers[:, axis] == BOTH_BAD, 2, preferred)
    frame = pd.DataFrame({"rater": ballots.rater, "unit": unit, "answer": answer.astype(float)})
    table = frame.pivot_table(index="rater", columns="unit", values="answer", aggfunc="last")
    table = table.loc[:, table.notna().sum() >= 2]
    if table.shape[1] == 0 or len(np.unique(table.to_numpy()[table.notna().to_numpy()])) < 2:
        return Agreement(None, table.shape[1])
    return Agreement(float(evalica.alpha(table, distance="nominal").alpha), table.shape[1])


@dataclass(frozen=True)
class SelfAgreement:
    """Of pairs that were shown twice, sides swapped: how many, how many got the same answer, and the opposite one."""

    repeated: int
    same: int
    opposite: int


def self_agreement(ballots: Ballots, axis: int) -> SelfAgreement:
    """Returns how raters answered on one axis what they were shown again; one who always says "left" is opposite."""
    place = {sequence: i for i, sequence in enumerate(ballots.sequence.tolist())}
    again = [i for i in np.flatnonzero(ballots.repeats >= 0) if int(ballots.repeats[i]) in place]
    first = [place[int(ballots.repeats[i])] for i in again]
    preferred, bad = ballots.preferred()[:, axis], ballots.answers[:, axis] == BOTH_BAD
    code = np.where(bad, 2, preferred)
    same = int((code[again] == code[first]).sum())
    opposite = int((preferred[again] * preferred[first] == -1).sum())
    return SelfAgreement(len(again), same, opposite)
