"""A training run from its data to its last checkpoint: the loop, and what is due every so many steps."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grain

from nami_jax.checkpoints.checkpoint import Checkpoints
from nami_jax.checkpoints.workdir import RUN_CONFIG
from nami_jax.config import ConfigError, DataConfig, require
from nami_jax.files.disk import written_whole
from nami_jax.monitoring.events import tracked
from nami_jax.monitoring.metrics import Interval, NonFiniteError
from nami_jax.monitoring.watch import NO_EXTRAS, Extras, Watch, watching
from nami_jax.parallel import processes as distributed
from nami_jax.parallel.sharding import shard_batch
from nami_jax.parallel.stopping import Stopping
from nami_jax.training.compilation import CompilingAhead
from nami_jax.training.state import TrainState
from nami_jax.training.task import Task

PAST = "losses"  # beside the loader's position in a checkpoint


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
        NonFiniteError: the loss or the gradient did not stay finite and in range; what was saved before is kept.
        Stopped: SIGTERM or SIGINT came, and the state is saved, unless its last loss was out of range.
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
    train = task.cfg.train
    with (
        Stopping() as stopping,
        Checkpoints(workdir, task.cfg) as checkpoints,
        tracked(extras.wandb, workdir, task.cfg.to_dict()) as tracker,
    ):
        with distributed.main_first("data"):  # what is prepared there must be prepared once
            samples = task.sample_counts()
        checkpoints.use_networks(task.frozen())
        state, loader, past = begin_or_continue(task, checkpoints, samples)
        steps = range(int(state.step) + 1, min(stop_after or train.steps, train.steps) + 1)
        if distributed.is_main():
            if not steps:
                print(
                    f"{workdir}: step {int(state.step)} of {train.steps} is done already; "
                    "this command trains no further."
                )
            with written_whole(workdir / RUN_CONFIG) as unfinished:
                unfinished.write_text(json.dumps(task.cfg.to_dict(), indent=2) + "\n")
        checkpoints.prepare(state.items())
        views, devices = task.views(workdir / "samples"), list(task.mesh.devices.flat)
        interval = Interval(task.rate_field, train.max_skipped_steps, devices, max_rise=train.max_loss_rise, past=past)
        with (
            CompilingAhead(task.programs(state, steps) if steps else ()) as ahead,
            watching(train, views, interval, workdir, steps, extras, tracker) as watch,
        ):
            state = _Steps(task, checkpoints, samples, loader, interval, watch).take(state, steps, stopping, ahead)
        if stopping.after is None:
            task.finish(state, workdir)
    stopping.require_going(train.steps)
    return state


@dataclasses.dataclass(frozen=True)
class _Steps:
    """What the steps of a run work with, and a checkpoint holds."""

    task: Task
    checkpoints: Checkpoints
    samples: Sequence[int]
    loader: grain.DatasetIterator
    interval: Interval
    watch: Watch

    def take(self, state: TrainState, steps: range, stopping: Stopping, ahead: CompilingAhead) -> TrainState:
        """Takes the steps, and what is due after each; saves where they end early. Raises as `run`."""
        train_step, watch = self.task.train_step(), self.watch
        try:
            for step in stopping.steps(steps.start, steps.stop):
                batch = shard_batch(watch.next_batch(step, self.loader), self.task.mesh)
                state, metrics = train_step(state, batch)
                watch.after_step(step, metrics, self.task.flops(batch))
                stopping.interruptible(watch.show, step, state)
                if watch.due(step, self.task.cfg.train.checkpoint_every):
                    watch.settle()
                    self.save(state)
                self.checkpoints.require_saved()
                stopping.interruptible(watch.draw, step, state)
                if ahead.lacks(step + 1):
                    stopping.interruptible(watch.pause, ahead.wait, step + 1)
            watch.settle()
            if stopping.after is None:
                self.interval.require_in_range()
        except ConfigError:  # of a program that does not fit, between two steps
            self.save(state)
            raise
        except NonFiniteError as error:
            raise NonFiniteError(f"{error} {self.checkpoints.set_aside(self.interval.good_until)}") from error
        if stopping.after is not None:
            self.save(state)
            stopping.saved = self.interval.in_range
        return state

    def save(self, state: TrainState) -> None:
        """Begins a checkpoint, unless the loss has left its range."""
        if self.interval.in_range:
            step = int(state.step)
            position = self.loader.get_state() | {"samples": self.samples, PAST: self.interval.past()}
            self.checkpoints.save(step, state.items(), position, self.watch.validation_loss(step))


def begin_or_continue(
    task: Task, checkpoints: Checkpoints, samples: Sequence[int]
) -> tuple[TrainState, grain.DatasetIterator, Mapping[str, Any] | None]:
    """Returns the state of the newest checkpoint or a new run, the loader at its position, and `Interval.past` if any.

    Raises:
        ConfigError: the run was started on another number of samples, so that its order cannot be kept, or has done
            more steps than it is to have.
    """
    restored, loader = checkpoints.restore_latest(task.abstract_state().items()), task.loader()
    workdir = checkpoints.folder.parent
    if restored is None:
        state, position = task.first_state(workdir), loader.get_state()
        if state.bridge:
            checkpoints.save(0, state.items(), position | {"samples": samples})  # an interrupted run need not train it
            checkpoints.wait()  # a signal ends the program at once from here to the first step
        return state, loader, None
    items, position = restored
    past = position.pop(PAST, None)
    require_enough_steps(int(items["train"]["step"]), task.cfg.train.steps)
    require_same_samples(task.cfg.data, position.pop("samples", samples), samples)
    loader.set_state(position)
    return task.continued_state(items, workdir), loader, past


def require_enough_steps(done: int, steps: int) -> None:
    """Checks that a run is not continued to fewer steps than it has done.

    Raises:
        ConfigError: it is.
    """
    require(
        done <= steps,
        field="train.steps",
        value=steps,
        rule=f"the run has done {done} steps already",
        remedy=f"Set at least {done}, or use another --workdir",
    )


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
