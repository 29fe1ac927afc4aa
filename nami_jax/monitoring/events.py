"""Scalars and pictures of a run as TensorBoard events and, if asked for, for Weights & Biases.

Only the first process writes.
"""

import contextlib
import itertools
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

from nami_jax.config import ConfigError
from nami_jax.parallel.processes import is_main, main_first

EVENTS = "events"  # folder of the workdir
RUN_ID = "wandb_id.txt"  # file of the workdir: a continued run continues there too
STEP = "global_step"  # what Weights & Biases draws everything over: its own count of steps cannot go back


class EventWriter:
    """Writes scalars and pictures as TensorBoard events below the workdir, each before the call returns.

    Not by tensorboardX's SummaryWriter: its thread dies silently on a full disk, and the run then waits for it.
    """

    def __init__(self, workdir: Path, start: int, tracker: Any = None):
        """Opens a new file of events in `workdir/events`, which supersedes what was logged after step `start`.

        Args:
            workdir: of the run.
            start: steps that are done.
            tracker: a run of Weights & Biases, as `tracked` gives it, that gets all of it too; None: none.

        Raises:
            OSError: here and in all methods: writing to the disk failed.
        """
        self._events, self._tracker = None, tracker
        if is_main():
            (workdir / EVENTS).mkdir(parents=True, exist_ok=True)
            self._events = EventsWriter(str(workdir / EVENTS / "events"))
        self._write(Event(step=start + 1, session_log=SessionLog(status=SessionLog.START)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one value per name at `step`."""
        parts = [summary.scalar(name, value).value for name, value in values.items()]
        self._write(Event(step=step, summary=Summary(value=itertools.chain(*parts))))
        if self._tracker is not None:
            self._tracker.log({STEP: step, **values})

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """Writes an image (H, W, 3) uint8 at `step`."""
        self._write(Event(step=step, summary=summary.image(name, picture, dataformats="HWC")))
        if self._tracker is not None:
            self._tracker.log({STEP: step, name: _import_wandb().Image(picture)})

    def _write(self, event: Event) -> None:
        if self._events is not None:
            event.wall_time = time.time()
            self._events.write_event(event)
            self._events.flush()


@contextlib.contextmanager
def tracked(project: str | None, workdir: Path, settings: Mapping[str, Any]) -> Iterator[Any]:
    """Yields a run of Weights & Biases, which ends with the block, or None.

    Args:
        project: of Weights & Biases; None: no run.
        workdir: where it keeps its files, and its id: the same workdir continues the same run.
        settings: of the run, to be shown with it.

    Raises:
        ModuleNotFoundError: wandb is not installed.
        ConfigError: Weights & Biases refuses: nobody is logged in, it cannot be reached, ...
    """
    if project is None:
        yield None
        return
    with main_first("wandb"):
        run = _begin(_import_wandb(), project, workdir, settings) if is_main() else None
    if run is None:
        yield None
        return
    exit_code = 1
    try:
        yield run
        exit_code = 0
    finally:
        run.finish(exit_code)


def _import_wandb() -> Any:
    """Imports wandb, which takes a second and is not installed with nami_jax."""
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"--wandb: {error.name} is not installed. Install it with `pip install wandb`, or leave out --wandb: "
            "TensorBoard events are written in any case."
        ) from error
    return wandb


def _begin(wandb: Any, project: str, workdir: Path, settings: Mapping[str, Any]) -> Any:
    """Begins the workdir's run or continues it."""
    kept = workdir / RUN_ID
    try:
        run_id = kept.read_text("ascii").strip() or None
    except FileNotFoundError:
        run_id = None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{kept} is damaged: {error}. Remove it: a new run of Weights & Biases begins.") from error
    try:
        run = wandb.init(
            project=project, name=workdir.absolute().name, id=run_id, resume="allow", dir=workdir, config=dict(settings)
        )
    except wandb.Error as error:
        raise ConfigError(
            f"--wandb = {project!r}: {error} Run `wandb login` first, or set WANDB_MODE=offline in the environment and "
            "upload the run later with `wandb sync`."
        ) from error
    kept.write_text(f"{run.id}\n")
    run.define_metric("*", step_metric=STEP)
    return run
