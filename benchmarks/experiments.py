"""Trains arms for equal FLOPs and evaluates them: `python -m benchmarks.experiments --arms nami,single_flow`.

Each arm of `benchmarks/arms.py` is trained with each seed for as many steps as the FLOPs allow, in a run of its own
under `--runs` that continues where it was interrupted; `--points` checkpoints, evenly spaced, are evaluated on the
pictures of `--split`. What was found goes to one JSON file per run under `--out`, which `benchmarks.results` draws. A
run whose file is there already is left out. Arms of latents need the autoencoder of `configs/autoencoder_styles.py` and
what `make prepare` installs. `--time` measures the seconds of the arms' steps instead, in turns.

    taskset -c 0 python -m benchmarks.experiments --seeds 0 &  taskset -c 1 python -m benchmarks.experiments --seeds 1

runs two of them at once.
"""

import dataclasses
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging

from benchmarks.arms import NAMI, SINGLE_FLOW, Arm, all_arms, configured
from benchmarks.timing import about, interleave
from benchmarks.train_step import Trainer
from nami_jax.checkpoints.checkpoint import CheckpointError
from nami_jax.checkpoints.orbax import mute_orbax
from nami_jax.config import Config, ConfigError, EvaluationConfig, MeshConfig, require
from nami_jax.evaluation.run_evaluation import evaluate
from nami_jax.files.disk import written_whole
from nami_jax.monitoring.flops import training_flops
from nami_jax.parallel.kept_programs import keep_on_disk
from nami_jax.parallel.sharding import make_mesh
from nami_jax.preparation.errors import PreparationError
from nami_jax.preparation.options import Options
from nami_jax.preparation.orchestration import prepare
from nami_jax.sampling.pipeline import NamiPipeline
from nami_jax.terminal.command_line import parse_flags
from nami_jax.training.loop import run
from nami_jax.training.muon import muon_flops
from nami_jax.training.step import state_shapes
from nami_jax.training.tasks import read_task


def phase_flops(cfg: Config) -> list[int]:
    """Returns the FLOPs of a training step in each phase: the network's, and Muon's if that is the optimizer."""
    optimizer = muon_flops(state_shapes(cfg).params) if cfg.train.optimizer == "muon" else 0
    return [sum(training_flops(cfg, batch)) + optimizer for batch in cfg.train.stage_batches]


def mean_flops(cfg: Config) -> float:
    """Returns the FLOPs of a training step, the mean over a run's phases."""
    starts = (*cfg.train.phase_starts, 1.0)
    return sum((end - start) * each for start, end, each in zip(starts, starts[1:], phase_flops(cfg), strict=False))


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
            max(min(step, end) - start, 0) * each
            for start, end, each in zip(bounds, bounds[1:], phase_flops(cfg), strict=False)
        )
    )


class Bench:
    """Trains runs of one data set and evaluates them on one split, whose pictures are opened once."""

    def __init__(self, split: str, captions: int, guidance: Sequence[float]):
        """Takes the split, how many of its captions are sampled, and scales of guidance; none: the config's."""
        self._settings = EvaluationConfig(split=split, num_images=captions, seeds=1)
        self._guidance, self._evaluations = tuple(guidance), {}

    def measure(self, cfg: Config, workdir: Path) -> list[dict[str, Any]]:
        """Trains a run, or what is left of it, and evaluates its checkpoints: a record of each, in their order."""
        if cfg.data.prepared is not None:
            prepare(cfg, cfg.data.name, cfg.data.prepared, Options())  # what is left to prepare
        run(read_task(cfg.to_dict(), workdir=workdir), workdir)
        pictures, found = dataclasses.replace(cfg.data, prepared=None), []  # prepared data name their splits otherwise
        for step in range(cfg.train.checkpoint_every, cfg.train.steps + 1, cfg.train.checkpoint_every):
            pipe = NamiPipeline.from_pretrained(workdir, step)
            for guidance in self._guidance or (cfg.sample.guidance_scale,):
                sample = pipe.cfg.sample.changed({"guidance_scale": guidance})
                kept = self._evaluations.get(pictures)
                evaluated = evaluate(pipe, pictures, self._settings, sample=sample, evaluation=kept)
                self._evaluations[pictures] = evaluated.evaluation
                scores = {name: score["value"] for name, score in evaluated.report["scores"].items()}
                known = {
                    name: {key: score[key] for key in ("real", "chance", "higher_is_better")}
                    for name, score in evaluated.report["scores"].items()
                }
                found.append(
                    {
                        "step": step,
                        "flops": flops_until(cfg, step),
                        "guidance_scale": guidance,
                        "scores": scores,
                        "known": known,
                    }
                )
        return found

    def require_same(self, path: Path, cfg: Config) -> None:
        """Checks that a record was made as one of this run would be.

        Raises:
            ConfigError: it was not.
        """
        record = json.loads(path.read_text())
        scales = {point["guidance_scale"] for point in record["points"]}
        found = record["split"], record["config"]["train"]["steps"], len(record["points"]), scales
        wanted_scales = set(self._guidance or (cfg.sample.guidance_scale,))
        count = cfg.train.steps // cfg.train.checkpoint_every * len(wanted_scales)
        wanted = self._settings.split, cfg.train.steps, count, wanted_scales
        require(
            found == wanted,
            field="out",
            value=str(path),
            rule=f"split, steps, points and guidance are {found} there and {wanted} here",
            remedy="Set another folder, or remove that record",
        )


def step_seconds(names: Sequence[str], rounds: int, steps: int) -> dict[str, list[float]]:
    """Times the steps of arms in turns: of each arm the seconds of a step in each of its phases, medians."""
    arms, mesh, programs = all_arms(), make_mesh(MeshConfig()), {}
    for name in names:
        cfg = Config.from_dict(configured(arms[name]).to_dict())
        for phase, batch in enumerate(cfg.train.stage_batches):
            trainer = Trainer(cfg, batch, mesh)
            programs[name, phase] = trainer.program(trainer.compile(cfg)[0], steps)
    labelled = {f"{name}, phase {phase + 1}": program for (name, phase), program in programs.items()}
    medians = [float(np.median(values)) for values in interleave(labelled, rounds, "timing").values()]
    found: dict[str, list[float]] = {name: [] for name in names}
    for (name, _), seconds in zip(programs, medians, strict=True):
        found[name].append(seconds)
    return found


def commit() -> str:
    """Returns the commit that is checked out, with a plus if files differ from it."""
    described = subprocess.run(["git", "describe", "--always", "--dirty=+"], capture_output=True, text=True, check=True)
    return described.stdout.strip()


def write(path: Path, record: Any) -> None:
    """Writes JSON that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as unfinished:
        unfinished.write_text(json.dumps(record, indent=1) + "\n")


def main(argv: list[str]) -> None:
    """Runs what the flags name."""
    del argv
    args = flags.FLAGS
    logging.set_verbosity(logging.WARNING)
    mute_orbax()
    keep_on_disk()
    arms, out = all_arms(), Path(args.out)
    unknown = [name for name in args.arms if name not in arms]
    try:
        require(not unknown, field="arms", value=unknown, rule="are not arms", remedy=f"Set some of {', '.join(arms)}")
        if args.time:
            seconds = step_seconds(args.arms, args.rounds, 5)
            write(out / "step_seconds.json", {"seconds": seconds, "commit": commit(), **about()})
            return
        bench = Bench(args.split, args.captions, [float(scale) for scale in args.guidance])
        for seed in args.seeds:
            for name in args.arms:
                record = out / f"{name}_{seed}.json"
                cfg = run_config(arms[name], int(seed), args.flops, args.points)
                if record.exists():
                    bench.require_same(record, cfg)
                    print(f"{record} is there already")
                    continue
                points = bench.measure(cfg, Path(args.runs) / f"{name}_{seed}")
                own = {"arm": name, "about": arms[name].about, "seed": int(seed), "split": args.split}
                write(record, {**own, "commit": commit(), **about(), "config": cfg.to_dict(), "points": points})
                jax.clear_caches()
    except (ConfigError, CheckpointError, PreparationError, ModuleNotFoundError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    flags.DEFINE_list("arms", [NAMI, SINGLE_FLOW], "which arms of benchmarks/arms.py")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "of parameters, order and noise")
    flags.DEFINE_float("flops", 8e12, "of training, for every run")
    flags.DEFINE_integer("points", 1, "checkpoints that are evaluated, evenly spaced", lower_bound=1)
    flags.DEFINE_string("split", "held_out_pairs", "whose captions are sampled")
    flags.DEFINE_integer("captions", 256, "how many captions of it", lower_bound=2)
    flags.DEFINE_list("guidance", [], "scales to sample with; the config's if not given")
    flags.DEFINE_string("runs", "runs/experiments", "where the runs are kept")
    flags.DEFINE_string("out", "docs/results/ablations", "where the records go")
    flags.DEFINE_bool("time", False, "time the arms' steps in turns, and train nothing")
    flags.DEFINE_integer("rounds", 5, "of timing", lower_bound=1)
    app.run(main, flags_parser=parse_flags)
