"""Trains a model: `python -m nami_jax.train --config emoji_tiny`.

Writes to the workdir: `checkpoints/`, TensorBoard `events/`, `samples/` (grids) and `config.json`. The same command
continues an interrupted run. Fields of the config are set as flags: `--config.train.steps=2000`. A config whose `task`
is "autoencoder" trains one, and writes it to `vae/`. docs/watching.md explains how to follow a run.
"""

from absl import flags, logging

from nami_jax.terminal.command_line import run_command
from nami_jax.training.flags import define_flags, parse_run_flags, workdir

UNFINISHED = "this dry run was stopped before it could report anything"


def main(argv: list[str]) -> None:
    """Trains as the flags say and ends with what to do with the result."""
    del argv
    # Not at the top: jax and the rest take seconds, and `--help` or a mistyped flag is answered without them.
    from nami_jax.parallel.stopping import leave_at_once

    leave_at_once()
    from nami_jax.parallel import processes as distributed
    from nami_jax.training.compilation import not_waiting_for_programs

    with not_waiting_for_programs(), distributed.failing_alone():
        _train()


def _train() -> None:
    from nami_jax.checkpoints.checkpoint import CheckpointError
    from nami_jax.checkpoints.orbax import mute_orbax
    from nami_jax.config import ConfigError
    from nami_jax.data.corruption import CorruptDataError
    from nami_jax.files.disk import explain, print_anything
    from nami_jax.monitoring.metrics import NonFiniteError
    from nami_jax.monitoring.profiling import parse_window
    from nami_jax.monitoring.watch import Extras
    from nami_jax.parallel import processes as distributed
    from nami_jax.parallel.kept_programs import keep_on_disk
    from nami_jax.parallel.stopping import Stopped, leave_at_once
    from nami_jax.training.dry_run import dry_run
    from nami_jax.training.loop import run
    from nami_jax.training.tasks import read_task
    from nami_jax.weights import WeightsError

    logging.set_verbosity(logging.WARNING)
    print_anything()
    mute_orbax()
    fields, folder, stop_after = flags.FLAGS.config.to_dict(), workdir(), flags.FLAGS.stop_after
    if flags.FLAGS.dry_run:
        leave_at_once(UNFINISHED, 1)
    try:
        distributed.initialize()
        keep_on_disk()
        task = read_task(fields, workdir=folder)
        window = None if flags.FLAGS.profile is None else parse_window(flags.FLAGS.profile, task.cfg.train.steps)
        if flags.FLAGS.dry_run:
            told = dry_run(task, folder)
            if distributed.is_main():
                print(told)
            return
        run(task, folder, stop_after=stop_after, extras=Extras(flags.FLAGS.wandb, window))
    except Stopped as stopped:
        if flags.FLAGS.dry_run:
            raise SystemExit(UNFINISHED) from stopped
        print(stopped)
        return
    except (CheckpointError, ConfigError, CorruptDataError, ModuleNotFoundError, NonFiniteError, WeightsError) as error:
        raise SystemExit(f"error: {error}") from error
    except OSError as error:
        raise SystemExit(f"error: {explain(error)}") from error
    print(task.what_next(folder))


def cli() -> None:
    """Runs the command."""
    run_command(main, define_flags, __doc__, parse_run_flags)


if __name__ == "__main__":
    cli()
