"""What a kind of training is: all that the run loop, the dry run and the checks before a run ask of it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import grain
import jax
from jax.sharding import Mesh

from nami_jax.config import DataConfig
from nami_jax.data.captioned_images import CaptionedImages, open_source
from nami_jax.data.prepared_format import SPLITS
from nami_jax.data.tfds_builder import is_prepared
from nami_jax.monitoring.watch import Views
from nami_jax.training.compilation import Program
from nami_jax.training.state import TrainState

TrainStep = Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]  # (state, batch) -> (state, metrics)


class Task(Protocol):
    """A run of one kind, built from its config and devices.

    Building it reads, allocates and compiles nothing, so that it can be asked before a run whether it can work. What
    takes long is made when it is first asked for, and kept.
    """

    cfg: Any  # its Settings, with the sections `data` and `train` (a Cadence, checkpoint_every, keep_checkpoints)
    rate_field: str  # of the config: what to lower if the loss does not stay finite

    @property
    def mesh(self) -> Mesh:
        """The devices as the run arranges them; raises `ConfigError` if they cannot be."""
        ...

    def check(self) -> str:
        """Checks what the run needs beyond its config, and says how many images make a step.

        Raises:
            ConfigError: the devices cannot share its batches or its network, or parts of it do not fit together.
        """
        ...

    def state_shapes(self) -> TrainState:
        """Returns the training state as ShapeDtypeStructs, whatever the devices."""
        ...

    def abstract_state(self) -> TrainState:
        """Returns the training state as ShapeDtypeStructs with their shardings; nothing is allocated.

        Raises:
            ConfigError: an array cannot be split as the mesh asks.
        """
        ...

    def needs_weights(self, workdir: Path) -> bool:
        """Returns whether the run, stored in `workdir`, will read trained weights to start from."""
        ...

    def open_weights(self, workdir: Path) -> Mapping[str, Any]:
        """Opens these weights, by name, and reads none.

        Raises:
            ConfigError, WeightsError: they are missing, damaged, or of another network.
        """
        ...

    def ready_sources(self) -> Mapping[str, Sequence[Any]] | None:
        """Opens the data, sources by split, unless they would have to be built first: then None.

        Raises:
            ConfigError: the data do not fit the run.
        """
        ...

    def load_networks(self) -> None:
        """Loads the networks that the run uses and does not train, before its folder is touched.

        Raises:
            ConfigError, WeightsError, ModuleNotFoundError: one is missing or damaged.
        """
        ...

    def frozen(self) -> Mapping[str, str]:
        """Returns the fingerprints of the networks that the run uses and does not train, by `same_run`'s names."""
        ...

    def sample_counts(self) -> list[int]:
        """Opens the data, building them if need be, and returns how many samples each training source has."""
        ...

    def loader(self) -> grain.DatasetIterator[Any]:
        """Returns the training batches of this process, from step 0; its state is a dict with `next_index`."""
        ...

    def first_state(self, workdir: Path) -> TrainState:
        """Makes the state that a new run, stored in `workdir`, begins with; trains first what comes before it."""
        ...

    def continued_state(self, items: Mapping[str, Any], workdir: Path) -> TrainState:
        """Makes the state of a run that continues, of what its checkpoint and its workdir hold."""
        ...

    def train_step(self) -> TrainStep:
        """Returns the training step, which donates the state that it is given."""
        ...

    def programs(self, state: TrainState, steps: range) -> Sequence[Program]:
        """Lists what is to be compiled for the steps `steps` of a run in this state, and what is shown after them.

        The rest compiles when it is first called.
        """
        ...

    def flops(self, batch: Any) -> float:
        """Returns the floating-point operations of a step on a batch; 0 where they are not counted."""
        ...

    def views(self, folder: Path) -> Views:
        """Returns what is shown of the run; its pictures go to `folder`."""
        ...

    def finish(self, state: TrainState, workdir: Path) -> None:
        """Writes what the run leaves beside its checkpoints, all processes together."""
        ...

    def what_next(self, workdir: Path) -> str:
        """Says what to do with the result, for people."""
        ...

    def shortened(self, steps: int) -> "Task":
        """Returns the task for a dry run: each step is logged, and what is trained before takes `steps` steps."""
        ...


def ready_splits(data: DataConfig) -> dict[str, list[CaptionedImages]] | None:
    """Opens both splits of a tensorflow-datasets set unless it would have to be built first: then None."""
    if not is_prepared(data):
        return None
    names = (data.train_split, data.eval_split)
    return {split: [open_source(data, name)] for split, name in zip(SPLITS, names, strict=True)}
