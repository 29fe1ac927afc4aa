"""Searches the sampler's settings for a share of the cost: `python -m benchmarks.budget --checkpoint runs/emoji_tiny`.

Quality is how near samples come to the originals of their captions, held-out ones and training ones, in squared error
and in perceptual distance. Loss is by how much both exceed those of the run's own settings with 10 + 10 + 10 steps, of
the same captions and noise, on average and relative to them: 0 is no loss. Cost is the FLOPs of NAMI-2B at 1024 px,
relative to those of a single flow's 30 guided steps. For each budget one setting after the other is changed and kept if
the loss falls; the last stage always has as many steps as the budget allows. Then local times of one's own are tried,
and what was found is compared anew, with other noise.

Writes budget.png and presets.json; the entries of `SAMPLE_PRESETS` are printed. Needs matplotlib, which `make test`
installs.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import app, flags, logging
from matplotlib.figure import Figure

from benchmarks.inference import make_contenders
from benchmarks.timing import interleave
from configs import presets
from nami_jax.checkpoints.checkpoint import CheckpointError, Checkpoints
from nami_jax.config import Budget, ConfigError, SampleConfig, require
from nami_jax.data.examples import open_data
from nami_jax.data.images import to_stage
from nami_jax.flow.schedule import make_schedules
from nami_jax.flow.stages import make_stages
from nami_jax.monitoring.flops import sampling_flops
from nami_jax.parallel.kept_programs import keep_on_disk
from nami_jax.planning.tables import table
from nami_jax.sampling.pipeline import NamiPipeline
from nami_jax.terminal.command_line import parse_flags
from nami_jax.terminal.progress import progress_bar
from nami_jax.text.encoders import TextStates
from nami_jax.training.autoencoder.perceptual import load_perceptual, perceptual_distance
from nami_jax.weights import WeightsError

GEOMETRY: Mapping[str, Any] = {"side": 128, "text_tokens": 256}  # of NAMI-2B at 1024 px
SHARES = {"fast": 0.20, "balanced": 0.28, "best": 0.41}  # of the single flow's FLOPs
SEARCH_SEEDS, FRESH_SEEDS = (0, 1), (2, 3)
# What is tried, one after the other. The last stage begins at global time 0.385.
Coordinates = Mapping[str, Sequence[Any]]
COORDINATES: Coordinates = {
    "guidance_interval": ((0.0, 1.0), (0.2, 1.0), (0.39, 1.0)),
    "earlier": (0.6, 0.4, 1.0),
    "solver": ("euler", "ab2", "midpoint"),
    "shift": (1.0, 0.6, 1.6),
    "cfg_zero_star": (False, True),
    "guidance_rescale": (0.0, 0.5),
}
WARPS = (0.7, 1.4)  # of one stage's local times


def cost(sample: SampleConfig) -> float:
    """Returns the FLOPs of NAMI-2B at 1024 px with these settings, relative to a single flow's 30 guided steps."""
    single = make_contenders(presets.NAMI_2B, SampleConfig())[1]
    flops = (sampling_flops(*pair, **GEOMETRY) for pair in ((presets.NAMI_2B, sample), (single.model, single.sample)))
    ours, theirs = map(sum, flops)
    return ours / theirs


def fitted(choice: Mapping[str, Any], own: SampleConfig, share: float) -> Budget | None:
    """Returns the budget of a choice of `COORDINATES` with most steps in the last stage; None if one is too many."""
    defaults = SampleConfig().to_dict()
    changes = {name: value for name, value in choice.items() if name != "earlier" and value != defaults[name]}
    for steps in range(2 * own.steps[-1], 0, -1):
        budget = Budget(steps / own.steps[-1], choice["earlier"], changes)
        if cost(budget.of(own)) <= share:
            return budget
    return None


class Tried(NamedTuple):
    """A value of each coordinate, the settings that these are within a budget, and the loss of these."""

    choice: Mapping[str, Any]
    budget: Budget
    loss: float


class Judge:
    """Draws captions of a run and measures how far the samples are from the originals."""

    def __init__(self, workdir: Path, count: int):
        """Loads the run and chooses `count` captions of each of the training and the held-out ones, evenly spaced."""
        self.pipe = NamiPipeline.from_pretrained(workdir)
        with Checkpoints(workdir) as checkpoints:
            cfg = checkpoints.config(checkpoints.latest_step())
        require(
            cfg.model.num_stages == presets.NAMI_2B.num_stages,
            field="checkpoint",
            value=str(workdir),
            rule=f"is of {cfg.model.num_stages} stages, and the costs are those of NAMI-2B, which has three",
            remedy="Give a run of three stages, such as one of configs/emoji_tiny.py",
        )
        data = open_data(cfg, self.pipe.autoencoder and self.pipe.autoencoder.fingerprint)
        examples = [
            source.example(source[int(i)], None)
            for source in (data.held_out[0], data.train[0])
            for i in np.linspace(0, len(source) - 1, min(count, len(source))).round()
        ]
        self.held_out, self._empty = min(count, len(data.held_out[0])), data.empty
        self.own = cfg.sample.changed({"steps": SampleConfig().steps, "grid": "linear"})
        self._text = TextStates(np.stack([v.embeds for v in examples]), np.stack([v.pooled for v in examples]))
        self._originals = self._decode(to_stage(np.stack([v.image for v in examples]), 1))
        self._vgg, self._perceptual = load_perceptual(3), jax.jit(perceptual_distance)
        self._found: dict[tuple[SampleConfig, int], np.ndarray] = {}
        self.seconds: dict[SampleConfig, float] = {}  # of drawing once more, with its programs there

    def distances(self, sample: SampleConfig, seeds: Sequence[int]) -> np.ndarray:
        """Returns (2, N): each caption's squared error and perceptual distance, means over seeds."""
        for seed in seeds:
            if (sample, seed) not in self._found:
                start = time.perf_counter()
                pixels = self.draw(sample, seed)
                self.seconds[sample] = min(self.seconds.get(sample, np.inf), time.perf_counter() - start)
                squared = np.square(pixels - self._originals).mean((1, 2, 3))
                perceptual = np.asarray(self._perceptual(self._vgg, self._originals, pixels))
                self._found[sample, seed] = np.stack([squared, perceptual])
        return np.mean([self._found[sample, seed] for seed in seeds], axis=0)

    def draw(self, sample: SampleConfig, seed: int) -> np.ndarray:
        """Draws every caption: (N, H, W, 3) float32 in [-1, 1]."""
        latents = self.pipe.sample_latents(self._text, self._empty, sample, seed=seed)
        return np.clip(self._decode(latents), -1, 1).astype(np.float32)

    def loss(self, sample: SampleConfig, seeds: Sequence[int], some: slice = slice(None)) -> tuple[float, float]:
        """Returns by how much the distances exceed those of the run's own settings, relative, and its standard error.

        Both distances count alike. The error is over captions, of the difference between two samples of one caption.
        """
        reference = self.distances(self.own, seeds)[:, some]
        excess = (self.distances(sample, seeds)[:, some] - reference) / reference.mean(axis=1, keepdims=True)  # (2, N)
        each = excess.mean(axis=0)
        return float(each.mean()), float(each.std(ddof=1) / np.sqrt(len(each)))

    def _decode(self, latents: np.ndarray) -> np.ndarray:
        codec = self.pipe.autoencoder
        return np.asarray(latents if codec is None else codec.decode(latents))


def descend(judge: Judge, share: float, coordinates: Coordinates, choice: Mapping[str, Any]) -> Iterator[Tried]:
    """Yields what is tried within a budget, beginning with a choice of a value of each coordinate."""
    best = None
    for name, values in [("", [None]), *coordinates.items()]:
        for value in values:
            other = {**choice, name: value} if name else choice
            budget = fitted(other, judge.own, share)
            if budget is None or (best is not None and other == choice):
                continue
            tried = Tried(other, budget, judge.loss(budget.of(judge.own), SEARCH_SEEDS)[0])
            yield tried
            if best is None or tried.loss < best.loss:
                best, choice = tried, other


def own_grids(sample: SampleConfig) -> Iterator[SampleConfig]:
    """Yields settings with other local times in one stage, of as many steps; they need no program of their own."""
    stages = make_stages(len(sample.steps))
    taus = [schedule.grid.taus.astype(float) for schedule in make_schedules(stages, sample)]
    for k in range(len(taus)):
        for warp in WARPS:
            warped = [t if i != k else warp * t / (1 + (warp - 1) * t) for i, t in enumerate(taus)]
            yield sample.changed({"taus": [[round(float(x), 3) for x in t] for t in warped]})


class Found(NamedTuple):
    """What a budget's search ends with."""

    name: str
    best: Tried
    sample: SampleConfig
    grid: SampleConfig  # the same with the best local times of its own


def search(judge: Judge, names: Sequence[str], coordinates: Coordinates) -> Iterator[tuple[Found, list[SampleConfig]]]:
    """Yields the best of each budget, smallest first, and all that was tried.

    Each begins where the one before ended, whose best is kept where nothing dearer is better.
    """
    best, choice = [], {name: values[0] for name, values in coordinates.items()}
    for name in names:
        with progress_bar(descend(judge, SHARES[name], coordinates, choice), desc=name, unit="setting") as bar:
            tried = [*best, *bar]
        best = [min(tried, key=lambda one: one.loss)]
        choice, sample = best[0].choice, best[0].budget.of(judge.own)
        grid = min([sample, *own_grids(sample)], key=lambda some: judge.loss(some, SEARCH_SEEDS)[0])
        yield Found(name, best[0], sample, grid), [one.budget.of(judge.own) for one in tried]


def report(judge: Judge, found: Sequence[Found], seconds: Mapping[str, np.ndarray]) -> str:
    """Returns the table of what was found, with noise that the search has not seen."""
    rows, own_time = [], seconds["own settings"].sum(axis=1)
    named = [("own settings", judge.own), *((f.name, f.sample) for f in found)]
    named += [(f"{f.name}, its own grid", f.grid) for f in found if f.grid != f.sample]
    for name, sample in named:
        squared, perceptual = judge.distances(sample, FRESH_SEEDS).mean(axis=1)
        held_out, all_of_them = (judge.loss(sample, FRESH_SEEDS, some) for some in (slice(judge.held_out), slice(None)))
        losses = [f"{100 * mean:+.1f} ± {100 * error:.1f} %" for mean, error in (held_out, all_of_them)]
        time_share = f"{np.median(seconds[name].sum(axis=1) / own_time):.2f}" if name in seconds else ""
        steps = "+".join(map(str, sample.steps))
        rows.append((name, steps, f"{cost(sample):.3f}", time_share, f"{squared:.4f}", f"{perceptual:.4f}", *losses))
    header = ("", "steps", "FLOPs", "time", "squared", "perceptual", "loss, held-out", "loss, all")
    return table(header, rows)


def timed(judge: Judge, found: Sequence[Found], rounds: int) -> dict[str, np.ndarray]:
    """Times what was found and the run's own settings in turns."""

    def program(sample: SampleConfig):
        def run() -> list[float]:
            start = time.perf_counter()
            judge.draw(sample, 0)
            return [time.perf_counter() - start]

        return run

    named = {"own settings": judge.own} | {f.name: f.sample for f in found}
    return interleave({name: program(sample) for name, sample in named.items()}, rounds, "timing")


def plot(judge: Judge, found: Sequence[Found], tried: Sequence[SampleConfig], path: Path) -> None:
    """Draws quality against FLOPs and against time."""
    best = {judge.own: "own settings"}
    for f in found:  # several budgets may end with the same
        best[f.sample] = f"{best[f.sample]}, {f.name}" if f.sample in best else f.name
    drawn = Figure(figsize=(11, 4.2), layout="constrained")
    by_flops, by_time = drawn.subplots(1, 2, sharey=True)
    by_flops.set(xlabel="FLOPs of NAMI-2B at 1024 px / single flow's", ylabel="loss, %")
    by_time.set(xlabel="seconds / own settings'")
    for sample in {*tried, *best}:
        loss, error = (100 * x for x in judge.loss(sample, FRESH_SEEDS if sample in best else SEARCH_SEEDS))
        for axes, x in ((by_flops, cost(sample)), (by_time, judge.seconds[sample] / judge.seconds[judge.own])):
            if sample in best:
                axes.errorbar(x, loss, error, fmt="o", color="tab:blue", zorder=3)
                axes.annotate(best[sample], (x, loss), (6, 6), textcoords="offset points", color="tab:blue")
            else:
                axes.plot(x, loss, "o", color="0.7", markersize=4)
    for axes in (by_flops, by_time):
        axes.axhline(0, color="0.8", zorder=0)
        axes.margins(x=0.25)  # for the names
    drawn.savefig(path)


def main(argv: Sequence[str]) -> None:
    """Searches, prints the table and the presets, and writes the plot."""
    del argv
    logging.set_verbosity(logging.WARNING)
    keep_on_disk()
    args = flags.FLAGS
    out = Path(args.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        judge = Judge(Path(args.checkpoint), args.captions)
        found, tried = [], []
        for one, some in search(judge, sorted(args.budgets, key=list(SHARES).index), COORDINATES):
            found.append(one)
            tried += some
    except (ConfigError, CheckpointError, WeightsError, ModuleNotFoundError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    seconds = timed(judge, found, args.rounds)
    print(f"{judge.pipe.source}, {args.captions} captions of each kind, at most, {jax.devices()[0].device_kind}")
    print(report(judge, found, seconds))
    for f in found:
        print(f'    "{f.name}": {f.best.budget!r},')
        if f.grid != f.sample:
            print(f"    # {f.name} with local times of its own: {f.grid.taus}")
    plot(judge, found, tried, out / "budget.png")
    (out / "presets.json").write_text(json.dumps({f.name: f.best.budget._asdict() for f in found}, indent=2) + "\n")
    print(out / "budget.png")


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("checkpoint", None, "workdir of a run of three stages", required=True)
    flags.DEFINE_integer("captions", 32, "of the held-out captions, and as many of the training ones", lower_bound=2)
    flags.DEFINE_multi_enum("budgets", list(SHARES), list(SHARES), "which budgets to search")
    flags.DEFINE_integer("rounds", 3, "rounds that are timed", lower_bound=1)
    flags.DEFINE_string("out", "out", "folder for the plot and the presets")


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=parse_flags)
