"""Checks windows, targets, jumps and solvers where all is known: `python -m benchmarks.gaussian_flow --out FOLDER`.

JAX_PLATFORMS=cpu .venv/bin/python -m benchmarks.gaussian_flow --out out

A network that has learned all there is to learn gives E[velocity | x_t]. Of Gaussian images that is linear in x_t, and
known: it is computed here from the ends of the paths that the loss takes (`stage_ends`, `start_after`), and followed as
the sampler does, with its grids, solvers and jumps. All of these are affine, so they run on a basis of the noise in the
place of draws of it, and give the mean and covariance of the samples exactly. Their Wasserstein-2 distance to the
images is what windows, target, jump and solver get wrong together, without any network or chance in it. It is given per
pixel, as the root of a mean square.

Leaves FOLDER/gaussian_flow.json and gaussian_flow.svg. Needs matplotlib, which `make test` installs.
"""

import functools
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from matplotlib.figure import Figure

from benchmarks.timing import about
from nami_jax.config import SampleConfig
from nami_jax.files.disk import written_whole
from nami_jax.flow.interpolant import interpolate, stage_ends
from nami_jax.flow.resize import pool
from nami_jax.flow.schedule import make_schedules
from nami_jax.flow.solver import SOLVERS
from nami_jax.flow.stages import Stage, make_stages
from nami_jax.flow.transition import Bridged, Renoise, Transition, start_after
from nami_jax.models.bridge import Bridge
from nami_jax.planning.tables import table
from nami_jax.terminal.command_line import parse_flags
from nami_jax.terminal.progress import progress_bar

Row = dict[str, Any]
SIDE, COUNTS, STEPS = 16, (1, 2, 3, 4), (10, 20, 40, 80)
SHARES = (0.0, 0.1, 0.5, 1.0)  # q
COLOURS = "#111111", "#c0392b", "#d68910", "#1e8449", "#1b6ca8"
NEGLIGIBLE = 1e-11  # variances below this part of the largest are 0 but for rounding


class Gaussian(NamedTuple):
    """A distribution of images with one channel: mean (d,) and covariance (d, d), d = side^2, float64."""

    mean: np.ndarray
    covariance: np.ndarray

    @property
    def side(self) -> int:
        """Height and width."""
        return round(len(self.mean) ** 0.5)


def smooth_images(side: int, power: float = 2.0, std: float = 1.0) -> Gaussian:
    """Returns periodic images whose power falls with frequency f, in waves per image, as 1 / (1 + f^power).

    Natural images have a power of about 2. Each pixel has the standard deviation `std`. The mean is a ramp from -1/2 to
    1/2.
    """
    waves = np.fft.fftfreq(side, 1 / side)
    spectrum = 1 / (1 + np.hypot(waves[:, None], waves[None]) ** power)
    spectrum *= (std * side) ** 2 / spectrum.sum()
    first = np.fft.ifft2(spectrum).real  # covariances of the first pixel with all
    rows, columns = (i.reshape(-1) for i in np.indices((side, side)))
    covariance = first[(rows[:, None] - rows) % side, (columns[:, None] - columns) % side]
    return Gaussian(np.repeat(np.linspace(-0.5, 0.5, side), side), covariance)


def wasserstein(one: Gaussian, other: Gaussian) -> float:
    """Returns the Wasserstein-2 distance of two Gaussians per value: the root of the mean square (Bures' formula)."""
    root = _symmetric_root(other.covariance)
    # Of A = L L', tr (R A R)^(1/2) is the sum of the singular values of R L, which loses fewer digits.
    overlap = np.linalg.svd(root @ _symmetric_root(one.covariance), compute_uv=False).sum()
    squared = np.square(one.mean - other.mean).sum()
    squared += np.trace(one.covariance) + np.trace(other.covariance) - 2 * overlap
    return float(np.sqrt(max(squared, 0.0) / len(one.mean)))


def _symmetric_root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def least_from_rank(images: Gaussian, rank: int) -> float:
    """Returns the distance, as `wasserstein`, that no linear image of `rank` noise values can fall below."""
    left = np.linalg.eigvalsh(images.covariance)[: len(images.mean) - rank]
    return float(np.sqrt(left.sum() / len(images.mean)))


def least_squares_bridge(stages: Sequence[Stage], share: float) -> Bridged:
    """Returns what the bridge's training ends at, s = 1 / (1 + e) and B = 0, whatever the images are."""
    bridge = Bridge([(1, 1, 1)] * (len(stages) - 1))
    bridge.scales[...] = jnp.array([1 / (1 + before.sigma_end) for before in stages[:-1]])
    return Bridged(bridge, share)


def affine(function: Any, *shapes: tuple[int, ...]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Takes an affine function of batches of arrays apart: its value at 0 (n,), and a matrix (n, m) for each argument.

    Args:
        function: maps arrays (B, *shape), float64, to one array (B, ...), each element of the batch for itself.
        *shapes: of the arguments, without B.
    """
    sizes = [int(np.prod(shape)) for shape in shapes]
    cuts = np.cumsum(sizes)[:-1]
    basis = np.concatenate([np.zeros((1, sum(sizes))), np.eye(sum(sizes))])
    parts = np.split(basis, cuts, axis=1)
    with jax.enable_x64(True):
        values = function(*(part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)))
    rows = np.asarray(values).reshape(len(basis), -1)
    return rows[0], np.split((rows[1:] - rows[0]).T, cuts, axis=1)


class ExactVelocity:
    """E[velocity | x_t] of one stage, in the place of a network: `prepare` and `__call__` are what a solver takes."""

    def __init__(self, images: Gaussian, stage: Stage, before: Stage | None, transition: Transition):
        """Takes the images at the stage's size, the stage, the one before, and the jump between them."""
        self.stage, shape = stage, (images.side, images.side, 1)

        def ends(latents: jax.Array, noise: jax.Array) -> jax.Array:
            """Returns the ends of the path that the loss takes, (B, 2, H, W, 1)."""
            start, end = stage_ends(latents, noise, stage)
            if before is not None and isinstance(transition, Bridged):
                start = start_after(transition, before, latents, noise)
            return jnp.stack([start, end], 1)

        at_zero, (of_images, of_noise) = affine(ends, shape, shape)
        size = len(images.mean)
        self.means = (at_zero + of_images @ images.mean).reshape(2, size)
        joint = of_images @ images.covariance @ of_images.T + of_noise @ of_noise.T
        self.joint = joint.reshape(2, size, 2, size)  # covariance of start and end
        self.at = functools.cache(self._at)

    def _at(self, tau: float) -> tuple[np.ndarray, np.ndarray]:
        """Returns the gain (d, d) and offset (d,) at a local time."""
        both_ends: Any = np.eye(2).reshape(2, 2, 1, 1, 1)
        twice: Any = np.full(2, tau)
        x_t, velocity = (
            np.ravel(part) for part in interpolate(both_ends[0], both_ends[1], twice)
        )  # in terms of start and end
        noisy = np.einsum("a,aibj,b->ij", x_t, self.joint, x_t)
        shared = np.einsum("a,aibj,b->ij", velocity, self.joint, x_t)
        gain = shared @ np.linalg.pinv(noisy, rcond=NEGLIGIBLE, hermitian=True)
        return gain, velocity @ self.means - gain @ (x_t @ self.means)

    def prepare(self, times: Any) -> tuple[np.ndarray, np.ndarray]:
        """Maps global times (M,) to gains (M, d, d) and offsets (M, d) at the local times that they mean."""
        stage, times = self.stage, np.asarray(times, np.float64)
        taus = (times - stage.time_end) / (stage.time_start - stage.time_end)
        # Grids are float32: rounded, equal times of two grids are found again.
        gains, offsets = zip(*(self.at(float(tau)) for tau in taus.round(6)), strict=True)
        return np.stack(gains), np.stack(offsets)

    def __call__(self, x: jax.Array, prepared: tuple[jax.Array, jax.Array]) -> jax.Array:
        """Maps x (B, H, W, 1) and one time's gain and offset to the velocity."""
        gain, offset = prepared
        return (x.reshape(len(x), -1) @ gain.T + offset[None]).reshape(x.shape)


class Flow:
    """A flow of Gaussian images in K stages that has learned all there is to learn, with one kind of jump."""

    def __init__(self, images: Gaussian, num_stages: int, share: float | None):
        """Takes the images, K, and the share of noise that the bridge adds; None renoises."""
        self.stages = make_stages(num_stages)
        self.transition = Renoise() if share is None else least_squares_bridge(self.stages, share)
        self.shapes = [(images.side // stage.downscale,) * 2 + (1,) for stage in self.stages]
        by_stage = [images]
        for shape in self.shapes[:0:-1]:
            at_zero, (pooling,) = affine(pool, shape)
            finer = by_stage[0]
            mean, covariance = at_zero + pooling @ finer.mean, pooling @ finer.covariance @ pooling.T
            by_stage.insert(0, Gaussian(mean, covariance))
        self.velocities = [
            ExactVelocity(at_size, stage, before, self.transition)
            for at_size, stage, before in zip(by_stage, self.stages, (None, *self.stages[:-1]), strict=True)
        ]

    def sampled(self, sample: SampleConfig) -> Gaussian:
        """Returns the distribution of the samples."""
        schedules, solve = make_schedules(self.stages, sample), SOLVERS[sample.solver]
        drawn = self.shapes if self.transition.share else self.shapes[:1]

        def draw(initial: jax.Array, *added: jax.Array) -> jax.Array:
            x = jnp.asarray(initial)
            jumps = zip(self.stages, added or itertools.repeat(None), strict=False)
            for velocity, schedule in zip(self.velocities, schedules, strict=True):
                if velocity is not self.velocities[0]:
                    before, noise = next(jumps)
                    x = self.transition(x, noise, before)
                x = solve(velocity, x, schedule.grid, velocity.prepare)
            return x

        mean, parts = affine(draw, *drawn)
        return Gaussian(mean, np.sum([part @ part.T for part in parts], axis=0))


def jump_name(share: float | None) -> str:
    """Returns what tables and pictures call a jump."""
    return "renoise" if share is None else f"bridge, q = {share:g}"


def measure(images: Gaussian, counts: Sequence[int], steps: Sequence[int]) -> Iterator[Row]:
    """Yields the distance for every number of stages, jump, solver and number of steps in each stage."""
    flows = [(k, share) for k in counts for share in ((None, *SHARES) if k > 1 else (None,))]
    with progress_bar(flows, desc="flows", unit="flow") as bar:
        for k, share in bar:
            flow, rank = Flow(images, k, share), (images.side >> (k - 1)) ** 2
            least = least_from_rank(images, rank) if share == 0 else 0.0
            for solver, count in itertools.product(SOLVERS, steps):
                sample = SampleConfig.from_dict({"steps": (count,) * k, "solver": solver})
                distance = wasserstein(flow.sampled(sample), images)
                jump = "none" if k == 1 else jump_name(share)
                yield {
                    "stages": k,
                    "jump": jump,
                    "solver": solver,
                    "steps": count,
                    "distance": distance,
                    "least": least,
                }


def text(rows: Sequence[Row]) -> str:
    """Returns the rows as a table with a column for each number of steps, and what no number can fall below."""
    steps = sorted({row["steps"] for row in rows})
    cells = []
    for (k, jump, solver), some in itertools.groupby(rows, lambda row: (row["stages"], row["jump"], row["solver"])):
        found = {row["steps"]: row for row in some}
        least = found[steps[0]]["least"]
        cells.append((str(k), jump, solver, *(f"{found[n]['distance']:.4f}" for n in steps), f"{least:.4f}"))
    return table(("stages", "jump", "solver", *(f"{n} steps" for n in steps), "least"), cells)


def figure(rows: Sequence[Row], facts: Mapping[str, str], stages: int) -> Figure:
    """Draws the distance against the steps in each stage, for each jump, in a panel for each solver."""
    drawn = Figure(figsize=(14, 3.8), layout="constrained")
    drawn.suptitle(f"Gaussian images, exact velocity, K = {stages}, {facts['date']}", fontsize="medium")
    panels = drawn.subplots(1, len(SOLVERS), sharey=True)
    for axes, solver in zip(panels, SOLVERS, strict=True):
        some = [row for row in rows if row["stages"] == stages and row["solver"] == solver]
        for (jump, of_jump), colour in zip(itertools.groupby(some, lambda row: row["jump"]), COLOURS, strict=True):
            points = [(row["steps"], row["distance"]) for row in of_jump]
            # Renoising and q = 1 are the same: the one is seen through the other.
            style = {"linewidth": 4, "alpha": 0.4} if jump == jump_name(None) else {"marker": "o", "markersize": 4}
            axes.plot(*zip(*points, strict=True), color=colour, label=jump, **style)
        steps = sorted({row["steps"] for row in some})
        axes.set(title=solver, xlabel="steps in each stage", xscale="log", yscale="log")
        axes.set_xticks(steps, [str(n) for n in steps])
        axes.tick_params(which="minor", length=0, labelbottom=False)
        axes.grid(alpha=0.4)
    panels[0].set_ylabel("distance to the images, per pixel")
    panels[-1].legend(fontsize="small")
    return drawn


def main(argv: Sequence[str]) -> None:
    """Measures, prints the table, and leaves the figures and their picture."""
    del argv
    args, folder = flags.FLAGS, Path(flags.FLAGS.out)
    folder.mkdir(parents=True, exist_ok=True)
    side, counts, steps = (8, (1, 2), (2, 4)) if args.tiny else (SIDE, args.stages, STEPS)
    facts = about() | {"side": str(side), "power": str(args.power), "std": str(args.std)}
    rows = list(measure(smooth_images(side, args.power, args.std), counts, steps))
    print(f"{', '.join(f'{k} {v}' for k, v in facts.items())}\n\n{text(rows)}")
    with written_whole(folder / "gaussian_flow.json") as path:
        path.write_text(json.dumps({"about": facts, "distances": rows}, indent=1))
    with written_whole(folder / "gaussian_flow.svg") as path:
        figure(rows, facts, 3 if 3 in counts else max(counts)).savefig(path, format="svg")
    print(f"\n{folder / 'gaussian_flow.svg'}")


def define_flags() -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("out", None, "folder for the picture and its figures", required=True)
    flags.DEFINE_multi_integer("stages", COUNTS, "K, once for each flow to measure", lower_bound=1, upper_bound=5)
    flags.DEFINE_float("power", 2.0, "how steeply the images' power falls with frequency", lower_bound=0)
    flags.DEFINE_float("std", 1.0, "standard deviation of a pixel", lower_bound=0)
    flags.DEFINE_bool("tiny", False, "images of 8x8, two stages and few steps, to try this")


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=parse_flags)
