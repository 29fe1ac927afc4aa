"""Times the training step with its blocks unrolled and scanned, in one run: `python -m benchmarks.train_step`.

The batches are random numbers in the shapes that the config trains on, so no data set is needed. The share of the
machine's rate is against a matrix product measured in between, in the config's compute type. Another config, and
rematerialised blocks as well:

python -m benchmarks.train_step --config configs/flowers.py --remat
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import app, flags, logging
from jax.sharding import Mesh
from ml_collections import config_flags
from tqdm import tqdm

from benchmarks.timing import Timed, clock, interleave, matmul
from nami_jax.config import Config, ConfigError, ModelConfig, require
from nami_jax.config.settings import choices
from nami_jax.data.loader import Batch, StageBatch
from nami_jax.models.layout import Layout
from nami_jax.monitoring.flops import training_flops
from nami_jax.parallel.sharding import make_mesh, require_divisible, shard_batch
from nami_jax.planning.tables import table
from nami_jax.sampling.sampler import make_sampler
from nami_jax.terminal.command_line import parse_flags
from nami_jax.text.encoders import TextStates
from nami_jax.training.state import TrainState
from nami_jax.training.step import init_state, make_train_step


def variants(cfg: Config, remat: bool) -> dict[str, Config]:
    """Returns the config with its blocks unrolled and scanned; if asked for, with every rematerialisation."""
    kept: Any = choices(ModelConfig, "remat") if remat else [cfg.model.remat]
    return {
        ("scanned" if scan else "unrolled") + (f", remat {again}" if again != "none" else ""): dataclasses.replace(
            cfg, model=dataclasses.replace(cfg.model, scan_blocks=scan, remat=again)
        )
        for again in kept
        for scan in (False, True)
    }


def random_batch(cfg: Config, stage_batch: Sequence[int], rng: np.random.Generator) -> Batch:
    """Draws what the loader would give: images (B_k, H_k, W_k, C) and text states, stage by stage."""
    shapes = make_sampler(cfg.model).shapes(cfg.data.side, cfg.data.side)
    return tuple(
        StageBatch(rng.uniform(-1, 1, (count, *shape)).astype(np.float32), random_text(cfg, count, rng))
        for count, shape in zip(stage_batch, shapes, strict=True)
    )


def random_text(cfg: Config, count: int, rng: np.random.Generator) -> TextStates:
    """Draws text states of `count` captions, (count, T, D) and (count, P)."""
    shapes = (count, cfg.text.max_length, cfg.model.text_dim), (count, cfg.model.pooled_dim)
    return TextStates(*(rng.standard_normal(shape, np.float32) for shape in shapes))


class Measured(NamedTuple):
    """Seconds that a variant took."""

    step: float  # median
    compilation: float  # tracing included


class Trainer:
    """One training state that all variants take turns to advance: large models fit once, and the work is the same."""

    def __init__(self, cfg: Config, stage_batch: Sequence[int], mesh: Mesh):
        rng, self._mesh = np.random.default_rng(0), mesh
        require_divisible("train.stage_batches", (stage_batch,), mesh)
        self._batch = shard_batch(random_batch(cfg, stage_batch, rng), mesh)
        self._null = random_text(cfg, 1, rng)
        self._state = init_state(cfg, mesh)

    def compile(self, cfg: Config, layout: Layout | None = None) -> tuple[Any, float]:
        """Compiles the step of a variant, with the run's layout or another.

        Returns:
            The program, and the seconds that tracing and compiling it took.
        """
        step: Any = make_train_step(cfg, self._mesh, layout)
        return clock(lambda: step.lower(self._state, self._batch, self._null).compile())

    def program(self, step: Any, count: int) -> Timed:
        """Returns a program that trains `count` steps and gives the seconds of one."""

        def train(state: TrainState) -> TrainState:
            for _ in range(count):
                state, _ = step(state, self._batch, self._null)
            return state

        def run() -> list[float]:
            self._state, seconds = clock(train, self._state)
            return [seconds / count]

        return run


def measure(
    cfgs: Mapping[str, Config], stage_batch: Sequence[int], mesh: Mesh, *, rounds: int, steps: int, matmul_side: int
) -> tuple[dict[str, Measured], float]:
    """Times variants of the step, and a matrix product, in turns.

    Args:
        cfgs: variants by name, which differ in how their blocks run and in nothing else.
        stage_batch: images of stage 1..K in a step.
        mesh: as `sharding.make_mesh` arranges it.
        rounds: in which each variant trains `steps` steps.
        steps: of a round.
        matmul_side: of the square matrices.

    Returns:
        What each variant took, and the FLOP/s of the matrix product on one device.

    Raises:
        ConfigError: images that do not split over the devices.
    """
    cfg = next(iter(cfgs.values()))
    trainer = Trainer(cfg, stage_batch, mesh)
    compiled = {name: trainer.compile(variant) for name, variant in tqdm(cfgs.items(), "compiling", unit="variant")}
    programs = {name: trainer.program(step, steps) for name, (step, _) in compiled.items()}
    seconds = interleave(programs | {"matmul": matmul(cfg.model.dtype, matmul_side)}, rounds, "training")
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    rate = 2 * matmul_side**3 / medians["matmul"]
    return {name: Measured(medians[name], compile_seconds) for name, (_, compile_seconds) in compiled.items()}, rate


def report(measured: dict[str, Measured], stage_batch: Sequence[int], flops: int, peak: float) -> str:
    """Returns the table and which variant is fastest.

    Args:
        measured: what each variant took.
        stage_batch: images of stage 1..K in a step.
        flops: of a step.
        peak: FLOP/s of matrix products on all devices together.
    """
    rows = []
    for name, (step, compilation) in measured.items():
        rates = [f"{images / step:.1f}" for images in (*stage_batch, sum(stage_batch))]
        share = f"{flops / step / 1e9:.1f}", f"{flops / step / peak:.1%}"
        rows.append((name, f"{compilation:.1f}", f"{step * 1e3:.1f}", *rates, *share))
    stages = [f"stage {k} images/s" for k in range(1, len(stage_batch) + 1)]
    header = ("blocks", "compile s", "step ms", *stages, "images/s", "GFLOP/s", "of matmul")
    rate = f"{flops / 1e9:.2f} GFLOP in a step; matrix products run at {peak / 1e9:.1f} GFLOP/s"
    return f"{table(header, rows)}\n\n{rate}\n{conclusion(measured)}"


def conclusion(measured: dict[str, Measured]) -> str:
    """Says which variant has the shortest step, and what the others take against it."""
    best, *others = sorted(measured, key=lambda name: measured[name].step)
    steps, compilations = ({name: m[i] / measured[best][i] for name, m in measured.items()} for i in range(2))
    ratios = [f"{n} takes {steps[n]:.2f} times its step, {compilations[n]:.2f} times its compilation" for n in others]
    return f"fastest: {best}; {'; '.join(ratios)}"


def main(argv: Sequence[str]) -> None:
    """Prints the table and the conclusion."""
    del argv
    logging.set_verbosity(logging.WARNING)
    args = flags.FLAGS
    try:
        cfg = Config.from_dict(args.config.to_dict())
        phases = cfg.train.stage_batches
        require(
            args.phase <= len(phases),
            field="phase",
            value=args.phase,
            rule=f"the config has {len(phases)}",
            remedy="Set a smaller one",
        )
        stage_batch, mesh = phases[args.phase - 1], make_mesh(cfg.mesh)
        measured, rate = measure(
            variants(cfg, args.remat), stage_batch, mesh,
            rounds=args.rounds, steps=args.steps, matmul_side=args.matmul_side,
        )  # fmt: skip
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from error
    device = f"{mesh.size} x {jax.devices()[0].device_kind}"
    print(f"{cfg.data.name}, width {cfg.model.width}, {cfg.model.dtype}, {device}")
    print(f"medians of {args.rounds} rounds of {args.steps} steps, compilation not included\n")
    print(report(measured, stage_batch, sum(training_flops(cfg, stage_batch)), rate * mesh.size))


def define_flags() -> None:
    """Defines the command's flags."""
    config_flags.DEFINE_config_file("config", "configs/emoji_tiny.py", "file of the run's config", lock_config=True)
    flags.DEFINE_bool("remat", False, "time rematerialised blocks too")
    flags.DEFINE_integer("phase", 1, "training phase whose images per stage are taken", lower_bound=1)
    flags.DEFINE_integer("rounds", 7, "rounds that are timed", lower_bound=1)
    flags.DEFINE_integer("steps", 5, "training steps of each round", lower_bound=1)
    flags.DEFINE_integer(
        "matmul_side", 2048, "side of the matrices multiplied; 8192 or more fills a GPU", lower_bound=1
    )


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=parse_flags)
