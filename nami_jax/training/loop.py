"""A training run from its data to its last checkpoint: the loop, and what is due every so many steps."""

import json
from collections.abc import Sequence
from pathlib import Path

import grain

from nami_jax.checkpoints.checkpoint import Checkpoints
from nami_jax.config import ConfigError, DataConfig, require
from nami_jax.monitoring.events import tracked
from nami_jax.monitoring.metrics import Interval, NonFiniteError
from nami_jax.monitoring.watch import NO_EXTRAS, Extras, watching
from nami_jax.parallel import processes as distributed
from nami_jax.parallel.sharding import shard_batch
from nami_jax.parallel.stopping import Stopping
from nami_jax.training.compilation import CompilingAhead
from nami_jax.training.state import TrainState
from nami_jax.training.task import Task


def run(task: Task, workdir: Path, *, stop_after: int | None = None, extras: Extras = NO_EXTRAS) -> TrainState:
    """Runs or continues a training run.

    Args:
        task: what is trained, by which config, on which devices.
        workdir: where the run is kept.
        stop_after: stop once this many steps are done in all, saving; the next call continues. None: at `train.steps`.
        extras: what else to show of it.

    Returns:
        The training state at the end.

    Raises:
        ConfigError: settings that cannot work, found before any compilation.
        CheckpointError: all checkpoints are damaged, or a save failed.
        ModuleNotFoundError: the run needs a package that is not installed.
        NonFiniteError: the loss or the gradient became NaN or infinite; the last good state is saved.
        Stopped: SIGTERM or SIGINT came, and the state is saved.
    """
    require(
        stop_after is None or stop_after >= 1,
        field="stop_after",
        value=stop_after,
        rule="must be at least 1",
        remedy="Leave it out",
    )
    task.check()
    task.load_networks()
    cfg, last = task.cfg, task.cfg.train.steps
    with (
        Stopping() as stopping,
        Checkpoints(workdir, cfg) as checkpoints,
        tracked(extras.wandb, workdir, cfg.to_dict()) as tracker,
    ):
        with distributed.main_first("data"):  # what is prepared there must be prepared once
            samples = task.open_data()
        state, loader = begin_or_continue(task, checkpoints, samples)
        steps = range(int(state.step) + 1, min(stop_after or last, last) + 1)
        if distributed.is_main():
            (workdir / "config.json").write_text(json.dumps(cfg.to_dict(), indent=2) + "\n")
        checkpoints.prepare(state.items())
        train_step, views = task.train_step(), task.views(workdir / "samples")
        counted = task.rate_field, cfg.train.max_skipped_steps, list(task.mesh.devices.flat)
        with (
            CompilingAhead(task.programs(state, steps) if steps else ()) as ahead,
            watching(cfg.train, views, Interval(*counted), workdir, steps, extras, tracker) as watch,
        ):

            def save(state: TrainState) -> None:
                checkpoints.save(int(state.step), state.items(), loader.get_state() | {"samples": samples})

            try:
                for step in stopping.steps(steps.start, steps.stop):
                    batch = shard_batch(watch.next_batch(step, loader), task.mesh)
                    state, metrics = train_step(state, batch)
                    watch.after_step(step, metrics, task.flops(batch))
                    if watch.due(step, cfg.train.checkpoint_every):
                        watch.settle()
                        save(state)
                    checkpoints.require_saved()
                    stopping.interruptible(watch.show, step, state)
                    if ahead.lacks(step + 1):
                        stopping.interruptible(watch.pause, ahead.wait, step + 1)
                watch.settle()
            except (ConfigError, NonFiniteError):  # of a program that does not fit, between two steps, or of a step
                save(state)  # steps without a finite gradient have changed nothing
                raise
            if stopping.after is not None:
                save(state)
        if stopping.after is None:
            task.finish(state, workdir)
    stopping.require_going(last)
    return state


def begin_or_continue(
    task: Task, checkpoints: Checkpoints, samples: Sequence[int]
) -> tuple[TrainState, grain.DatasetIterator]:
    """Returns the state of the newest checkpoint, or that of a new run, and the loader at its position.

    Raises:
        ConfigError: the run was started on another number of samples, so that its order cannot be kept.
    """
    restored, loader = checkpoints.restore_latest(task.abstract_state().items()), task.loader()
    if restored is None:
        state, position = task.first_state(), loader.get_state()
        if state.bridge:
            checkpoints.save(0, state.items(), position | {"samples": samples})  # an interrupted run need not train it
            checkpoints.wait()  # a signal ends the program at once from here to the first step
        return state, loader
    items, position = restored
    require_same_samples(task.cfg.data, position.pop("samples", samples), samples)
    loader.set_state(position)
    return task.continued_state(items), loader


def require_same_samples(data: DataConfig, begun: Sequence[int], found: Sequence[int]) -> None:
    """Checks that a run continues on as many samples, source by source, as it was started on.

    Raises:
        ConfigError: it does not.
    """
    require(
        begun == found,
        field="data.prepared" if data.prepared else "data.name",
        value=data.prepared or data.name,
        rule=f"the run was started on {begun} samples, but here there are {found}",
        remedy="Set the data that it was started on, or use another --workdir",
    )
