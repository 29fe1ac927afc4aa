"""Orbax as checkpoints need it: a manager that writes, one that only reads, and one exception for what fails in it.

Orbax reads or writes all arrays at once in an event loop that it closes at the first failure; the others, still under
way, would then each print a traceback into whatever comes next. And each of its threads logs what it raises.
"""

import asyncio
import contextlib
import logging
import math
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers
from orbax.checkpoint.checkpoint_managers import PreservationPolicy

from nami_jax.config.keeping import Kept

VALIDATION_LOSS = "validation_loss"  # of a checkpoint's state, if it was measured: the metric that Orbax keeps with it

# What Orbax and TensorStore raise for files that are cut short or have been overwritten.
UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        """Never asks jax's preemption service, which counts its calls: only `Stopping` may make them."""
        return False

    def _load_checkpoint_infos(self, skip_metadata_read: bool = False) -> list[Any]:
        """Lists the checkpoints by their names alone: one may be damaged, or be deleted by its run meanwhile."""
        del skip_metadata_read
        return super()._load_checkpoint_infos(skip_metadata_read=True)


class _Writer(_Manager):
    def _load_checkpoint_infos(self, skip_metadata_read: bool = False) -> list[Any]:
        """Adds what is known of their quality, which of a damaged one is nothing."""
        found = super()._load_checkpoint_infos(skip_metadata_read)
        for checkpoint in found:
            with contextlib.suppress(*UNREADABLE):
                checkpoint.metrics = self.metrics(checkpoint.step)
        return found


def keeping(train: Kept) -> list[PreservationPolicy]:
    """Returns what says which checkpoints stay when a new one is complete: all that one of these wants to keep.

    Of the newest never fewer than two: whether the newest is any good, the next steps show.
    """
    newest, best, every = train.keep_checkpoints, train.keep_best, train.keep_every
    policies: list[PreservationPolicy] = [managers.LatestN(max(newest, 2))]
    # `reverse`, for Orbax takes the last of those that it has sorted.
    policies.append(managers.BestN(get_metric_fn=_loss, reverse=True, n=best, keep_checkpoints_without_metrics=False))
    return policies if every is None else [*policies, managers.EveryNSteps(every)]


def _loss(metrics: Any) -> float:
    value = metrics.get(VALIDATION_LOSS) if isinstance(metrics, dict) else None
    return float(value) if isinstance(value, float | int) else math.inf


def open_writer(folder: Path, items: Sequence[str], policies: list[PreservationPolicy]) -> ocp.CheckpointManager:
    """Opens a folder for all processes together, creating it, and removes the remains of unfinished saves.

    Args:
        folder: of the checkpoints.
        items: what a checkpoint may hold.
        policies: as `keeping` makes them; more can be added to the list later.
    """
    options = ocp.CheckpointManagerOptions(
        best_fn=_loss,
        best_mode="min",
        preservation_policy=managers.AnyPreservationPolicy(policies),
        cleanup_tmp_directories=True,
    )
    return _Writer(folder, options=options, item_names=items)


def open_reader(folder: Path, items: Sequence[str]) -> ocp.CheckpointManager:
    """Opens a folder for this process alone: it waits for no other, which may have met a damaged file."""
    alone = ocp.options.MultiprocessingOptions(jax.process_index(), {jax.process_index()})
    options = ocp.CheckpointManagerOptions(
        create=False, enable_async_checkpointing=False, multiprocessing_options=alone
    )
    return _Manager(folder, options=options, item_names=items)


class _PatientLoop(asyncio.SelectorEventLoop):
    """An event loop that closes when everything in it has ended."""

    def close(self) -> None:
        if not self.is_closed() and (left := asyncio.all_tasks(self)):
            self.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        super().close()


class _PatientPolicy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return _PatientLoop()


class Reading:
    """Catches the failure of a read inside the block and keeps it as `problem`; None if there was none."""

    problem: BaseException | None = None

    def __enter__(self) -> Self:
        self._policy = asyncio.get_event_loop_policy()
        asyncio.set_event_loop_policy(_PatientPolicy())
        return self

    def __exit__(self, kind: type | None, problem: BaseException | None, trace: TracebackType | None) -> bool:
        asyncio.set_event_loop_policy(self._policy)
        # Orbax raises Exception itself, no subclass, from what TensorStore says of an array's data.
        if problem is None or not (kind is Exception or isinstance(problem, UNREADABLE)):
            return False
        traceback.clear_frames(trace)  # which hold the arrays that were read so far
        self.problem = problem
        return True


def brief(problem: BaseException) -> str:
    """Returns what TensorStore or the system says, without the description of the array that follows it."""
    text, _, _ = str(problem.__cause__ or problem).partition(" [tensorstore_spec")
    return f"{type(problem).__name__}: {text.strip()[:500]}"


def mute_orbax() -> None:
    """Drops what Orbax logs and its threads print, in the whole process: for commands, which report what it raises."""
    logging.getLogger("absl").addFilter(lambda record: "/orbax/" not in record.pathname)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    asyncio.set_event_loop_policy(_PatientPolicy())
