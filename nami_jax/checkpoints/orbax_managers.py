"""Orbax's managers of a folder of checkpoints, as `checkpoint` needs them: one that writes, and one that only reads."""

from collections.abc import Sequence
from pathlib import Path

import jax
import orbax.checkpoint as ocp


class _Writer(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        """Asks jax's preemption service nothing: that counts its calls, and `stopping` makes them."""
        return False


def open_writer(folder: Path, items: Sequence[str], keep: int) -> ocp.CheckpointManager:
    """Opens a folder for all processes together, making it, and removes what unfinished saves left.

    Args:
        folder: of the checkpoints.
        items: what a checkpoint may hold.
        keep: how many checkpoints to keep, the newest.
    """
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True, lightweight_initialize=True)
    return _Writer(folder, options=options, item_names=items)


def open_reader(folder: Path, items: Sequence[str]) -> ocp.CheckpointManager:
    """Opens a folder for this process alone: it waits for no other, which may have met a damaged file."""
    alone = ocp.options.MultiprocessingOptions(jax.process_index(), {jax.process_index()})
    options = ocp.CheckpointManagerOptions(
        create=False, enable_async_checkpointing=False, lightweight_initialize=True, multiprocessing_options=alone
    )
    return ocp.CheckpointManager(folder, options=options, item_names=items)
