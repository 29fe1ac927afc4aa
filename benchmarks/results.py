"""Draws docs/results from its records: `python -m benchmarks.results`, which prints the tables of docs/results.md.

`docs/results/tuning` and `tuning_long` have records of the trials, `ablations` and `ablations_long` of each arm and
seed, all at the end of their training, `guidance` some of these at several scales of guidance, and `convergence` those
of the method and its baseline at several points.
Needs matplotlib, which `make test` installs.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags
from matplotlib import rc_context
from matplotlib.figure import Figure
from scipy.stats import t

from benchmarks.arms import NAMI, SINGLE_FLOW
from nami_jax.config import ConfigError, require
from nami_jax.planning.tables import table
from nami_jax.terminal.command_line import parse_flags

# What is shown of an evaluation, and what a reader should call it.
SHOWN = {
    "concept_closer": "concept closer",
    "concept": "right concept",
    "kid/efficientnet_lite0": "KID",
    "frechet/efficientnet_lite0": "Fréchet distance",
    "squared_error": "squared error",
}
NEAREST = "kid/efficientnet_lite0"  # by which the arms are sorted
COMPARED = {
    NEAREST: "KID minus nami's\n(left is better)",
    "concept_closer": "concept closer minus nami's\n(right is better)",
}
COLOURS = {NAMI: "#2a78c8", SINGLE_FLOW: "#d2622a"}  # readable on white and on black
GREY = "#808080"
TABLES = "tuning", "tuning_long", "ablations", "ablations_long"
TERA = 1e12

Records = Mapping[str, Sequence[Mapping[str, Any]]]  # by arm, then by seed


class Mean(NamedTuple):
    """A mean over seeds and the half-width of its 95 % interval by Student's t; infinite for one seed."""

    value: float
    reach: float

    def __str__(self) -> str:
        return f"{self.value:.4g}" + (f" ± {self.reach:.2g}" if math.isfinite(self.reach) else "")


def mean(values: Sequence[float]) -> Mean:
    """Returns the mean of the values of several seeds, with its interval."""
    count = len(values)
    if count < 2:
        return Mean(float(np.mean(values)), math.inf)
    return Mean(float(np.mean(values)), float(t.ppf(0.975, count - 1) * np.std(values, ddof=1) / math.sqrt(count)))


def load(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Reads the records of a folder: of each arm those of its seeds, in their order.

    Raises:
        ConfigError: there are none.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*_[0-9]*.json")):
        record = json.loads(path.read_text())
        found.setdefault(record["arm"], []).append(record)
    require(
        bool(found),
        field="results",
        value=str(folder),
        rule="has no records",
        remedy="Run `python -m benchmarks.experiments` first",
    )
    return found


def points(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns a record's points, one for each step: of several scales of guidance those of the last."""
    scale = record["points"][-1]["guidance_scale"]
    return [point for point in record["points"] if point["guidance_scale"] == scale]


def curve(record: Mapping[str, Any], score: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the training FLOPs of a record's points, and their scores."""
    found = points(record)
    return np.array([point["flops"] for point in found]), np.array([point["scores"][score] for point in found])


def flops_to_reach(record: Mapping[str, Any], score: str, level: float, higher_is_better: bool) -> float:
    """Returns the FLOPs at which a run first reaches a level of a score, between points by straight lines in log FLOPs.

    Infinite if it does not; the first point's if it is there already.
    """
    flops, values = curve(record, score)
    sign = 1 if higher_is_better else -1
    best = np.maximum.accumulate(sign * values)
    if best[-1] < sign * level:
        return math.inf
    return float(np.exp(np.interp(sign * level, *_rising(best, np.log(flops)))))


def _rising(values: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leaves the first of equal values, so that each has one position."""
    first = np.concatenate([[True], np.diff(values) > 0])
    return values[first], positions[first]


def pairs(records: Records) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Returns the records of the method and of the baseline by seed. Raises `ConfigError` as `savings`."""
    ours, theirs = ({record["seed"]: record for record in records[name]} for name in (NAMI, SINGLE_FLOW))
    require(
        ours.keys() == theirs.keys(),
        field="convergence",
        value=f"{sorted(ours)} and {sorted(theirs)}",
        rule="the method and the baseline need the same seeds",
        remedy="Run `python -m benchmarks.experiments` for those that lack",
    )
    return [(ours[seed], theirs[seed]) for seed in sorted(ours)]


def savings(records: Records, score: str) -> list[float]:
    """Returns for each seed the baseline's FLOPs over the method's to reach what both reach: the worse one's best.

    More than 1: the method needs fewer. Seeds are paired: both arms of one seed see the pictures in the same order.

    Raises:
        ConfigError: one of them lacks a seed of the other.
    """
    ratios = []
    for ours, theirs in pairs(records):
        better = ours["points"][-1]["known"][score]["higher_is_better"]
        best, worst = (max, min) if better else (min, max)
        level = worst(best(curve(record, score)[1]) for record in (ours, theirs))
        needed, saved = (flops_to_reach(record, score, level, better) for record in (theirs, ours))
        ratios.append(needed / saved)
    return ratios


def differences(records: Records, name: str, score: str) -> list[float]:
    """Returns by how much an arm's score at the end of training is above the method's, for each seed of both."""
    ours = {record["seed"]: record["points"][-1]["scores"][score] for record in records[NAMI]}
    theirs = {record["seed"]: record["points"][-1]["scores"][score] for record in records[name]}
    return [theirs[seed] - ours[seed] for seed in theirs if seed in ours]


def last_rows(records: Records) -> list[tuple[str, ...]]:
    """Returns a row for each arm, the method first: name, what it is, seeds, and the scores at the end of training."""
    rows = []
    for name in sorted(records, key=lambda name: (name != NAMI, name != SINGLE_FLOW, name)):
        last = [record["points"][-1]["scores"] for record in records[name]]
        scores = [str(mean([scores[score] for scores in last])) for score in SHOWN]
        rows.append((name, records[name][0]["about"], str(len(last)), *scores))
    return rows


def guidance_rows(records: Records) -> list[tuple[str, ...]]:
    """Returns a row for each arm and scale of guidance: both, seeds, and the scores at the end of training."""
    rows = []
    for name, of_seeds in records.items():
        for scale in sorted({point["guidance_scale"] for point in of_seeds[0]["points"]}):
            scores = [p["scores"] for record in of_seeds for p in record["points"] if p["guidance_scale"] == scale]
            shown = [str(mean([each[score] for each in scores])) for score in SHOWN]
            rows.append((name, f"{scale:g}", str(len(scores)), *shown))
    return rows


def compared(records: Records) -> list[str]:
    """Returns the arms that draw the same pictures as the method, and share a seed with it."""
    data = records[NAMI][0]["config"]["data"]["name"]
    arms = [name for name, (first, *_) in records.items() if first["config"]["data"]["name"] == data]
    return [name for name in arms if name != NAMI and differences(records, name, NEAREST)]


def difference_rows(records: Records) -> list[tuple[str, ...]]:
    """Returns a row for each arm that is `compared`: name, seeds, and how far its scores are from the method's."""
    rows = []
    for name in compared(records):
        found = [differences(records, name, score) for score in SHOWN]
        rows.append((name, str(len(found[0])), *(str(mean(values)) for values in found)))
    return rows


def draw_differences(records: Records, path: Path) -> None:
    """Draws how far each arm is from the method in the scores of `COMPARED`: seeds as dots, means as lines."""
    names = sorted(
        compared(records), key=lambda name: float(np.mean(differences(records, name, NEAREST))), reverse=True
    )
    figure = Figure(figsize=(9, 1.1 + 0.3 * len(names)), layout="constrained")
    axes = figure.subplots(1, len(COMPARED), sharey=True)
    for axis, (score, title) in zip(axes, COMPARED.items(), strict=True):
        axis.axvline(0, color=GREY, lw=1)
        for row, name in enumerate(names):
            found = differences(records, name, score)
            axis.plot(found, [row] * len(found), "o", color=COLOURS[NAMI], alpha=0.9, markersize=5, mew=0)
            axis.plot([np.mean(found)] * 2, [row - 0.3, row + 0.3], color=COLOURS[SINGLE_FLOW], lw=2)
        axis.set(title=title)
    axes[0].set_yticks(range(len(names)), names)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Writes a figure that can be read on white and on black; the same records give the same file."""
    for axis in figure.axes:
        axis.tick_params(colors=GREY)
        axis.title.set_color(GREY)
        axis.xaxis.label.set_color(GREY)
        axis.spines[:].set_color(GREY)
        axis.spines[["top", "right"]].set_visible(False)
        axis.patch.set_alpha(0)
    with rc_context({"svg.hashsalt": path.name}):
        figure.savefig(path, transparent=True, metadata={"Date": None})


def draw_curves(records: Records, seconds: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draws every score against training FLOPs and against time: lines of means, bands from lowest to highest seed."""
    figure = Figure(figsize=(3.2 * len(SHOWN), 5.6), layout="constrained")
    axes = figure.subplots(2, len(SHOWN), squeeze=False)
    for column, (score, label) in enumerate(SHOWN.items()):
        for name, of_seeds in records.items():
            values = np.stack([curve(record, score)[1] for record in of_seeds])
            points = {"TFLOP": curve(of_seeds[0], score)[0] / TERA, "minutes": minutes(of_seeds[0], seconds[name])}
            for row, (unit, position) in enumerate(points.items()):
                axis = axes[row, column]
                axis.plot(position, values.mean(axis=0), "o-", color=COLOURS[name], label=name, markersize=3)
                axis.fill_between(
                    position, values.min(axis=0), values.max(axis=0), color=COLOURS[name], alpha=0.2, lw=0
                )
                axis.set(xlabel=f"{unit} of training", title=label if row == 0 else None)
        real = next(iter(records.values()))[0]["points"][-1]["known"][score]["real"]
        for axis in axes[:, column] if real is not None else ():
            axis.axhline(real, color=GREY, lw=1, ls=":")
    axes[0, 0].legend(frameon=False, labelcolor=GREY)
    save(figure, path)


def minutes(record: Mapping[str, Any], seconds: Sequence[float]) -> np.ndarray:
    """Returns the minutes of training until a record's points, by the measured seconds of a step in each phase."""
    train = record["config"]["train"]
    bounds = [round(start * train["steps"]) for start in (*train["phase_starts"], 1.0)]
    spent = [
        sum(
            max(min(point["step"], end) - start, 0) * each
            for start, end, each in zip(bounds, bounds[1:], seconds, strict=False)
        )
        for point in points(record)
    ]
    return np.array(spent) / 60


def show(folder: Path) -> None:
    """Prints the tables of a folder of results, and writes its figures.

    Raises:
        ConfigError: the folder has no records.
    """
    for name in (name for name in TABLES if (folder / name).is_dir()):
        print(f"{name}\n\n{table(('arm', 'what', 'seeds', *SHOWN.values()), last_rows(load(folder / name)))}\n")
    ablations = load(folder / "ablations")
    print("ablations, less the method's with the same seed\n")
    print(f"{table(('arm', 'seeds', *SHOWN.values()), difference_rows(ablations))}\n")
    draw_differences(ablations, folder / "ablations.svg")
    if (folder / "guidance").is_dir():
        rows = guidance_rows(load(folder / "guidance"))
        print(f"guidance\n\n{table(('arm', 'scale', 'seeds', *SHOWN.values()), rows)}\n")
    convergence = load(folder / "convergence")
    seconds = json.loads((folder / "convergence" / "step_seconds.json").read_text())["seconds"]
    draw_curves(convergence, seconds, folder / "convergence.svg")
    print("The baseline's FLOPs over the method's to the best that both reach\n")
    print(table(("score", "ratio", "95 % interval", "seeds"), [saving_row(convergence, score) for score in SHOWN]))


def saving_row(records: Records, score: str) -> tuple[str, ...]:
    """Returns a score's name, the geometric mean of its savings, the mean's interval and the savings themselves."""
    ratios = savings(records, score)
    each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    logs = mean([math.log(ratio) for ratio in ratios])
    low, high = (math.exp(logs.value + sign * logs.reach) for sign in (-1, 1))
    return SHOWN[score], f"{math.exp(logs.value):.2f}", f"{low:.2f} to {high:.2f}", each


def main(argv: list[str]) -> None:
    """Prints the tables and writes the figures."""
    del argv
    try:
        show(Path(flags.FLAGS.results))
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    flags.DEFINE_string("results", "docs/results", "folder of the records")
    app.run(main, flags_parser=parse_flags)
