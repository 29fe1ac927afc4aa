"""Which tasks there are: the one place that names them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from nami_jax.config import Config, Settings, require
from nami_jax.config.autoencoder_run import TASK as AUTOENCODER
from nami_jax.config.autoencoder_run import AutoencoderRun
from nami_jax.config.flow_run import TASK as FLOW
from nami_jax.training.autoencoder.autoencoder_task import AutoencoderTask
from nami_jax.training.flow_task import FlowTask
from nami_jax.training.task import Task


class Kind(NamedTuple):
    """A task: the class of its config, and what makes it of one and of devices."""

    config: type[Settings]
    make: Callable[[Any, Sequence[Any] | None], Task]


KINDS = {FLOW: Kind(Config, FlowTask), AUTOENCODER: Kind(AutoencoderRun, AutoencoderTask)}  # by a config's `task`


def task_name(fields: Mapping[str, Any]) -> str:
    """Returns the name of the task of a config, given as nested dicts; one that names none is a flow's."""
    return fields.get("task", FLOW)


def read_task(fields: Mapping[str, Any], devices: Sequence[Any] | None = None) -> Task:
    """Reads a run's config and builds its task.

    Args:
        fields: the config as nested dicts; its `task` says of which kind it is.
        devices: to train on; all if not given.

    Raises:
        ConfigError: there is no such task, or the config does not fit it.
    """
    name = task_name(fields)
    known = isinstance(name, str) and name in KINDS
    require(known, field="task", value=name, rule="is not a task", remedy=f"Set one of {', '.join(KINDS)}")
    kind = KINDS[name]
    own = {section: value for section, value in fields.items() if section != "task"}
    return kind.make(kind.config.from_dict(own), devices)
