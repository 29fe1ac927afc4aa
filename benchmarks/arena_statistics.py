"""Proves the arena's statistics on arenas whose truth is known: `python -m benchmarks.arena_statistics --out FOLDER`.

JAX_PLATFORMS=cpu .venv/bin/python -m benchmarks.arena_statistics --out out

Simulated models of known strength are voted on by simulated raters, who lean to the left side, have tastes, and say
"tie" now and then; each prompt suits one model better than another. The arena's own pairing says who sees what, and
`nami_jax.nami1k.strengths` what the votes show. Counted is how often the 95 % intervals hold the truth: what endless
raters and prompts of this kind would give. Beside them stand the intervals that take all votes for independent.

Leaves FOLDER/arena_statistics.json.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks.timing import about
from nami_jax.files.disk import written_whole
from nami_jax.files.output_folder import make_folder
from nami_jax.nami1k.ballots import LEFT, RIGHT, TIE, Ballots
from nami_jax.nami1k.pairing import Pairing
from nami_jax.nami1k.questions import ANSWERS, AXES
from nami_jax.nami1k.showings import Assignment
from nami_jax.nami1k.strengths import points
from nami_jax.nami1k.vote_statistics import Statement, one_axis, state_scores, state_side_bias
from nami_jax.planning.tables import table
from nami_jax.terminal.command_line import parse_flags
from nami_jax.terminal.progress import progress_bar

TRUTH_DRAWS = 200_000


@dataclass(frozen=True)
class World:
    """What is true of simulated models and raters; all numbers are log odds.

    Attributes:
        strengths: of each model.
        by_prompt: standard deviation of what a prompt adds to a model.
        by_rater: standard deviation of what a rater's taste adds to a model.
        side: mean of what the left side adds.
        side_spread: standard deviation of that between raters.
        tie: how readily raters say "tie": v of Newman's model.
    """

    strengths: tuple[float, ...] = (0.5, 0.2, -0.7)
    by_prompt: float = 0.6
    by_rater: float = 0.3
    side: float = 0.25
    side_spread: float = 0.2
    tie: float = 0.25

    def outcomes(self, lead: np.ndarray) -> np.ndarray:
        """Returns (..., 3) the chances that the left wins, the right wins, neither does, by the left's lead (...)."""
        left, right = np.exp(lead / 2), np.exp(-lead / 2)
        either = left + right + 2 * self.tie
        return np.stack([left / either, right / either, 2 * self.tie / either], -1)


@dataclass(frozen=True)
class Size:
    """How large an arena is."""

    prompts: int = 200
    raters: int = 12
    votes_each: int = 100


def simulated_ballots(world: World, size: Size, seed: int) -> Ballots:
    """Lets raters vote in turns on what the arena's pairing shows them; all axes get one answer."""
    rng, models = np.random.default_rng(seed), len(world.strengths)
    of_prompt = rng.normal(0, world.by_prompt, (size.prompts, models))
    of_rater = rng.normal(0, world.by_rater, (size.raters, models))
    of_side = rng.normal(world.side, world.side_spread, size.raters)
    pairing = Pairing([str(i) for i in range(size.prompts)], models, str(seed))
    rows: list[tuple] = []
    for place, rater in itertools.product(range(size.votes_each), range(size.raters)):
        showing = pairing.next(rater, place)
        if showing is None:
            continue
        pairing.add(Assignment(len(rows), "", rater, place, showing))
        left, right = showing.left, showing.right
        spoiled = -1 if showing.spoiled is None else ("left", "right").index(showing.spoiled)
        if spoiled >= 0:
            answer = (RIGHT, LEFT)[spoiled]
        else:
            at = world.strengths + of_prompt[int(showing.prompt)] + of_rater[rater]
            chance = np.cumsum(world.outcomes(at[left] - at[right] + of_side[rater]))
            answer = (LEFT, RIGHT, TIE)[int(np.searchsorted(chance[:2], rng.random()))]
        pairing.add_answer(showing, ANSWERS[answer])
        again = -1 if showing.repeats is None else showing.repeats
        rows.append((len(rows), rater, int(showing.prompt), left, right, spoiled, again, answer, showing.kind))
    sequence, rater, prompt, left, right, spoiled, again, answer, kind = map(np.array, zip(*rows, strict=True))
    return Ballots(
        models=tuple(f"model {i}" for i in range(models)),
        prompts=tuple(map(str, range(size.prompts))),
        raters=tuple(f"rater {i}" for i in range(size.raters)),
        simulated=("a simulated rater of known tastes",) * size.raters,
        sequence=sequence,
        rater=rater,
        prompt=prompt,
        left=left,
        right=right,
        kind=kind,
        spoiled=spoiled,
        repeats=again,
        answers=np.repeat(answer[:, None], len(AXES), 1),
        milliseconds=np.full(len(rows), 5000),
    )


def truth(world: World) -> tuple[np.ndarray, np.ndarray]:
    """Returns what endless votes would give: scores (models,), and how often left and right win, by pair (pairs, 2)."""
    rng, models = np.random.default_rng(0), len(world.strengths)
    spread = np.sqrt(2 * (world.by_prompt**2 + world.by_rater**2))
    counts, sides = [], []
    for i, j in itertools.combinations(range(models), 2):
        lead = world.strengths[i] - world.strengths[j] + rng.normal(0, spread, TRUTH_DRAWS)
        side = rng.normal(world.side, world.side_spread, TRUTH_DRAWS)
        first_left = world.outcomes(lead + side).mean(0)
        first_right = world.outcomes(-lead + side).mean(0)
        counts.append((first_left + first_right[[1, 0, 2]]) / 2)
        both = (first_left + first_right) / 2
        sides.append(both[:2])
    return points(np.array(counts) * 1e9, models), np.array(sides)


def check(world: World, size: Size, arenas: int, draws: int) -> Iterator[dict[str, Any]]:
    """Yields, for each simulated arena, what is stated and what is true."""
    scores, sides = truth(world)
    pairs = list(itertools.combinations(range(len(scores)), 2))
    overall = AXES.index("overall")
    for seed in progress_bar(range(arenas), desc="arenas", unit="arena"):
        ballots = simulated_ballots(world, size, seed).counted()
        shown = np.array([np.isin([ballots.left, ballots.right], pair).all(0).sum() for pair in pairs])
        left, right = shown @ sides
        alone = np.arange(len(ballots))
        for kind, of in (("two-way", ballots), ("independent", replace(ballots, prompt=alone, rater=alone))):
            stated = state_scores(of, one_axis(overall, len(AXES)), draws)[0]
            for model, statement in enumerate(stated.scores):
                yield _row(seed, kind, "score", statement, scores[model])
            for (i, j), statement in stated.differences.items():
                yield _row(seed, kind, "difference", statement, scores[i] - scores[j])
            yield _row(seed, kind, "side bias", state_side_bias(of, overall, draws), 100 * left / (left + right) - 50)


def _row(seed: int, kind: str, what: str, said: Statement, true: float) -> dict[str, Any]:
    return {"arena": seed, "interval": kind, "of": what, "true": float(true), **asdict(said)}


def summary(rows: list[dict[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yields the coverage of each kind of interval, its mean width, and the mean error, in points."""
    for kind, what in itertools.product(("two-way", "independent"), ("score", "difference", "side bias")):
        some = [row for row in rows if (row["interval"], row["of"]) == (kind, what)]
        yield {
            "interval": kind,
            "of": what,
            "number": len(some),
            "coverage": float(np.mean([row["low"] <= row["true"] <= row["high"] for row in some])),
            "side found": float(np.mean([row["low"] > 0 for row in some])) if what == "side bias" else None,
            "width": float(np.mean([row["high"] - row["low"] for row in some])),
            "error": float(np.mean([row["value"] - row["true"] for row in some])),
        }


def main(argv: list[str]) -> None:
    del argv
    args, world = flags.FLAGS, World()
    size = Size(args.prompts, args.raters, args.votes_each)
    rows = list(check(world, size, args.arenas, args.draws))
    found = list(summary(rows))
    heads = ("interval", "of", "number", "coverage", "width", "error")
    cells = [
        (
            row["interval"],
            row["of"],
            str(row["number"]),
            f"{100 * row['coverage']:.1f} %",
            f"{row['width']:.2f}",
            f"{row['error']:+.2f}",
        )
        for row in found
    ]
    print(table(heads, cells))
    out = Path(args.out)
    make_folder(out, field="--out")
    report = {"about": about(), "world": asdict(world), "size": asdict(size), "arenas": args.arenas, "summary": found}
    with written_whole(out / "arena_statistics.json") as path:
        path.write_text(json.dumps(report, indent=2) + "\n")


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("out", None, "folder for the figures", required=True)
    flags.DEFINE_integer("arenas", 200, "how many are simulated", lower_bound=2)
    flags.DEFINE_integer("prompts", Size.prompts, "of each arena", lower_bound=2)
    flags.DEFINE_integer("raters", Size.raters, "of each arena", lower_bound=2)
    flags.DEFINE_integer("votes_each", Size.votes_each, "of each rater, checks among them", lower_bound=10)
    flags.DEFINE_integer("draws", 200, "of each kind of resampling", lower_bound=10)


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=parse_flags)
