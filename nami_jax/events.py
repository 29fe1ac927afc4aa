"""Scalars and pictures of a run as TensorBoard events; Weights & Biases reads the same events as they are written.

Only the first process writes. `watch` is the caller.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from tensorboardX import SummaryWriter

from nami_jax.config import ConfigError
from nami_jax.distributed import is_main

EVENTS = "events"  # folder of the workdir
RUN_ID = "wandb_id.txt"  # file of the workdir: a continued run continues there too


class EventWriter:
    """Writes scalars and pictures as TensorBoard events below the workdir."""

    def __init__(self, workdir: Path, start: int):
        """Opens a new file of events in `workdir/events`, which supersedes what was logged after step `start`."""
        self._writer = SummaryWriter(str(workdir / EVENTS), purge_step=start + 1, write_to_disk=is_main())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._writer.close()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one value per name at `step`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """Writes an image (H, W, 3) uint8 at `step`."""
        self._writer.add_image(name, picture, step, dataformats="HWC")


@contextlib.contextmanager
def mirrored(project: str | None, workdir: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Sends the events that are written inside to a run of Weights & Biases, which ends with the block.

    Args:
        project: of Weights & Biases; None: nothing is sent.
        workdir: whose events to send. The run's id is kept in it: the same workdir continues the same run.
        settings: of the run, to be shown with it.

    Raises:
        ModuleNotFoundError: wandb or tensorboard, by which it reads events, is not installed.
        ConfigError: Weights & Biases refuses: nobody is logged in, the network does not reach it, ...
    """
    if project is None or not is_main():
        yield
        return
    wandb = _import_wandb()
    # The root folder makes names what they are in TensorBoard. Without it wandb waits 10 s for a second folder.
    wandb.tensorboard.patch(save=False, root_logdir=str(workdir.absolute() / EVENTS))
    try:
        run = _begin(wandb, project, workdir, settings)
        exit_code = 1
        try:
            yield
            exit_code = 0
        finally:
            run.finish(exit_code)
    finally:
        wandb.tensorboard.unpatch()


def _import_wandb() -> Any:
    """Imports wandb, which takes a second and is not installed with nami_jax."""
    try:
        import tensorboard  # noqa: F401
        import wandb
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"--wandb: {error.name} is not installed. Install it with `pip install wandb tensorboard`, or leave out "
            "--wandb: the events for TensorBoard are written in any case."
        ) from error
    return wandb


def _begin(wandb: Any, project: str, workdir: Path, settings: Mapping[str, Any]) -> Any:
    """Begins the workdir's run or continues it."""
    kept = workdir / RUN_ID
    run_id = kept.read_text().strip() if kept.exists() else None
    try:
        run = wandb.init(
            project=project, name=workdir.absolute().name, id=run_id, resume="allow", dir=workdir, config=dict(settings)
        )
    except wandb.Error as error:
        raise ConfigError(
            f"--wandb = {project!r}: {error} Run `wandb login` first, or set WANDB_MODE=offline in the environment and "
            "send the run later by `wandb sync`."
        ) from error
    kept.write_text(f"{run.id}\n")
    return run
