"""A report on votes as one dictionary, which becomes `report.json` and the page."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from nami_jax.config import ConfigError
from nami_jax.nami1k.ballots import BOTH_BAD, Ballots
from nami_jax.nami1k.prompt_set import Prompt, PromptSet
from nami_jax.nami1k.questions import AXES
from nami_jax.nami1k.rater_checks import agreement, rater_records, self_agreement
from nami_jax.nami1k.strengths import newman_points, pair_counts
from nami_jax.nami1k.vote_statistics import Scores, one_axis, power, state_scores, state_side_bias, votes_to_flip

LEAST = 10  # votes for a report
LEAST_PART = 30  # votes for the scores of a kind or tag
OVERALL = AXES.index("overall")
CAVEAT = (
    "The paper ranks models by one weighted score from 0 to 100. Its weights are not known to us: those here are a "
    "choice of whoever ran this report. A weighted score hides where models differ, and in the paper the lead over SD3 "
    "is within what chance does."
)


def make_report(ballots: Ballots, prompts: PromptSet, weights: Mapping[str, float], draws: int) -> dict[str, Any]:
    """Returns all that `report` says.

    Args:
        ballots: all final votes. Where any are by persons, those of simulated raters are left out.
        prompts: the prompt set that they are on.
        weights: of the axes in the weighted score; they need not sum to 1.
        draws: of each kind of resampling.

    Raises:
        ConfigError: too few votes count.
    """
    persons = np.array([note is None for note in ballots.simulated], bool)
    by_persons = persons[ballots.rater]
    if by_persons.any():
        ballots = ballots.where(by_persons)
    notes = sorted({str(ballots.simulated[rater]) for rater in set(ballots.rater.tolist()) if not persons[rater]})
    records = rater_records(ballots)
    aside = {record.name for record in records if record.set_aside}
    kept = ballots.where(np.array([ballots.raters[rater] not in aside for rater in ballots.rater], bool))
    counted = kept.counted()
    if len(counted) < LEAST:
        said = f"{len(counted)} votes count, of {len(ballots)}, {len(aside)} raters being set aside"
        raise ConfigError(f"--votes: {said}. A report needs {LEAST}: let raters go on.")
    return {
        "models": list(ballots.models),
        "prompts": prompts.digest,
        "simulated": notes,
        "votes": _numbers(ballots, counted, prompts),
        "raters": [asdict(record) for record in records],
        **_scores(counted, weights, draws),
        **_parts(counted, prompts.prompts, draws),
        **_wins(counted),
        "side_bias": asdict(state_side_bias(counted, OVERALL, draws)),
        "agreement": {axis: asdict(agreement(counted, i)) for i, axis in enumerate(AXES)},
        "self_agreement": {axis: asdict(self_agreement(kept, i)) for i, axis in enumerate(AXES)},
        "flip": _flip(counted),
    }


def _numbers(ballots: Ballots, counted: Ballots, prompts: PromptSet) -> dict[str, Any]:
    kinds, numbers = np.unique(ballots.kind, return_counts=True)
    return {
        "all": len(ballots),
        "counted": len(counted),
        "by_kind": dict(zip(kinds.tolist(), numbers.tolist(), strict=True)),
        "prompts_seen": len(np.unique(counted.prompt)),
        "prompts": len(prompts.prompts),
        "both_bad": float((counted.answers[:, OVERALL] == BOTH_BAD).mean()),
    }


def _scores(counted: Ballots, weights: Mapping[str, float], draws: int) -> dict[str, Any]:
    total = sum(weights.values())
    weighted = np.array([[weights.get(axis, 0.0) / total for axis in AXES]])
    stated = state_scores(counted, np.concatenate([np.eye(len(AXES)), weighted]), draws)
    counts, models = pair_counts(counted), counted.models
    scores = {}
    for i, (name, found) in enumerate(zip((*AXES, "weighted"), stated, strict=True)):
        scores[name] = _by_model(models, found)
        if name != "weighted":
            other = newman_points(counts[i], len(models))
            for k, row in enumerate(scores[name]):
                row["newman"] = None if other is None else float(other[k])
    overall = stated[OVERALL]
    best, second = np.argsort([-score.value for score in overall.scores])[:2].tolist()
    leading = overall.errors[min(best, second), max(best, second)]
    return {
        "scores": scores,
        "weights": {axis: weights.get(axis, 0.0) / total for axis in AXES},
        "caveat": CAVEAT,
        "differences": [
            {"first": models[i], "second": models[j], **asdict(apart), "told_apart": apart.low > 0 or apart.high < 0}
            for (i, j), apart in overall.differences.items()
        ],
        "power": {**asdict(power(leading, len(counted))), "first": models[best], "second": models[second]},
    }


def _by_model(models: Sequence[str], scores: Scores) -> list[dict[str, Any]]:
    return [{"model": name, **asdict(score)} for name, score in zip(models, scores.scores, strict=True)]


def _parts(counted: Ballots, prompts: Sequence[Prompt], draws: int) -> dict[str, Any]:
    by_id = {prompt.id: prompt for prompt in prompts}
    shown = [by_id[name] for name in counted.prompts]
    kinds = dict.fromkeys(prompt.kind for prompt in prompts)
    tags = dict.fromkeys(tag for prompt in prompts for tag in prompt.tags)
    parts = {
        "kinds": {kind: [prompt.kind == kind for prompt in shown] for kind in kinds},
        "tags": {tag: [tag in prompt.tags for prompt in shown] for tag in tags},
    }
    found: dict[str, Any] = {}
    for name, members in parts.items():
        found[name] = {}
        for part, chosen in members.items():
            some = counted.where(np.array(chosen, bool)[counted.prompt])
            if len(some) >= LEAST_PART:
                stated = state_scores(some, one_axis(OVERALL, len(AXES)), draws)[0]
                found[name][part] = {"votes": len(some), "scores": _by_model(counted.models, stated)}
    return found


def _wins(counted: Ballots) -> dict[str, Any]:
    """Counts overall answers by pair: how often row was preferred to column, and how often neither was."""
    models = len(counted.models)
    wins, ties, both_bad = (np.zeros((models, models), int) for _ in range(3))
    preferred, bad = counted.preferred()[:, OVERALL], counted.answers[:, OVERALL] == BOTH_BAD
    low, high = np.minimum(counted.left, counted.right), np.maximum(counted.left, counted.right)
    np.add.at(wins, (low[preferred == 1], high[preferred == 1]), 1)
    np.add.at(wins, (high[preferred == -1], low[preferred == -1]), 1)
    for table, some in ((ties, (preferred == 0) & ~bad), (both_bad, bad)):
        np.add.at(table, (low[some], high[some]), 1)
        np.add.at(table, (high[some], low[some]), 1)
    return {"wins": wins.tolist(), "ties": ties.tolist(), "both_bad": both_bad.tolist()}


def _flip(counted: Ballots) -> dict[str, Any]:
    flip = votes_to_flip(pair_counts(counted)[OVERALL], len(counted.models))
    names = {"first": counted.models[flip.first], "rival": counted.models[flip.rival]}
    return {**names, "votes": flip.votes, "of": flip.of}
