"""Trains arms for equal FLOPs and evaluates them: `python -m benchmarks.experiments --arms nami,single_flow --flops 2e13`.

Each arm of `benchmarks/arms.py` is trained with each seed for as many steps as the FLOPs allow, in a run of its own
under `--runs` that continues where it was interrupted; `--points` checkpoints, evenly spaced, are evaluated on the
pictures of `--split`. What was found goes to one JSON file per run under `--out`, which `benchmarks.results` draws. A
run whose file is there already is left out. `--time` measures the seconds of the arms' steps instead, in turns.

    taskset -c 0 python -m benchmarks.experiments --seeds 0 &  taskset -c 1 python -m benchmarks.experiments --seeds 1

runs two of them at once.
"""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging

from benchmarks.arms import NAMI, SINGLE_FLOW, Arm, all_arms, configured
from benchmarks.timing import about, interleave
from benchmarks.train_step import Trainer
from nami_jax.checkpoints.orbax import mute_orbax
from nami_jax.config import Config, ConfigError, require
from nami_jax.files.disk import written_whole
from nami_jax.monitoring.flops import training_flops
from nami_jax.parallel.kept_programs import keep_on_disk
from nami_jax.parallel.sharding import make_mesh
from nami_jax.terminal.command_line import parse_flags
from nami_jax.training.loop import run
from nami_jax.training.tasks import read_task


def mean_flops(cfg: Config) -> float:
    """Returns the FLOPs of a training step, the mean over a run's phases."""
    starts = (*cfg.train.phase_starts, 1.0)
    return sum(
        (end - start) * sum(training_flops(cfg, batch))
        for start, end, batch in zip(starts, starts[1:], cfg.train.stage_batches, strict=False)
    )


def run_config(arm: Arm, seed: int, flops: float, points: int) -> Config:
    """Returns an arm's config with as many steps as `flops` allow, a multiple of `points`, with a checkpoint at each.

    Raises:
        ConfigError: the FLOPs do not allow one step for each point.
    """
    config = configured(arm)
    every = int(flops / mean_flops(Config.from_dict(config.to_dict())) / points)
    require(
        every >= 1,
        field="flops",
        value=f"{flops:.3g}",
        rule=f"must allow at least a step of training for each of {points} points",
        remedy="Set e.g. 8e12",
    )
    config.train.update(
        seed=seed,
        steps=every * points,
        warmup_steps=min(config.train.warmup_steps, every * points // 4),
        checkpoint_every=every,
        keep_checkpoints=points,
        keep_best=0,
        eval_every=every,
        sample_every=every * points,
    )
    return Config.from_dict(config.to_dict())


def flops_until(cfg: Config, step: int) -> float:
    """Returns the FLOPs of the first `step` training steps."""
    bounds = cfg.train.phase_bounds
    return float(
        sum(
            max(min(step, end) - start, 0) * sum(training_flops(cfg, batch))
            for start, end, batch in zip(bounds, bounds[1:], cfg.train.stage_batches, strict=False)
        )
    )


def train_and_evaluate(cfg: Config, workdir: Path, asked: Asked) -> list[dict[str, Any]]:
    """Trains a run, or what is left of it, and evaluates its checkpoints: a record of each, in their order."""
    run(read_task(cfg.to_dict(), workdir=workdir), workdir)
    found = []
    for step in range(cfg.train.checkpoint_every, cfg.train.steps + 1, cfg.train.checkpoint_every):
        for guidance in asked.guidance or (cfg.sample.guidance_scale,):
            metrics = evaluated(workdir, step, guidance, asked)
            found.append({"step": step, "flops": flops_until(cfg, step), "guidance_scale": guidance, "metrics": metrics})
    return found
