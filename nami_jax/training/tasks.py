"""Which tasks there are: the one place that names them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nami_jax.checkpoints.beginning import completed
from nami_jax.config import require
from nami_jax.config.autoencoder_run import TASK as AUTOENCODER
from nami_jax.config.flow_run import TASK as FLOW
from nami_jax.config.listing import RUNS
from nami_jax.training.autoencoder.autoencoder_task import AutoencoderTask
from nami_jax.training.flow_task import FlowTask
from nami_jax.training.task import Task

# What makes a task of its config and of devices, by a config's `task`.
TASKS: dict[str, Callable[[Any, Sequence[Any] | None], Task]] = {FLOW: FlowTask, AUTOENCODER: AutoencoderTask}


def task_name(fields: Mapping[str, Any]) -> str:
    """Returns the name of the task of a config, given as nested dicts; one that names none is a flow's."""
    return fields.get("task", FLOW)


def read_task(fields: Mapping[str, Any], devices: Sequence[Any] | None = None, *, workdir: Path | None = None) -> Task:
    """Reads a run's config and builds its task.

    Args:
        fields: the config as nested dicts; its `task` says of which kind it is. What a flow's leaves None of the model
            is taken from where the run begins, see `completed`.
        devices: to train on; all if not given.
        workdir: of the run; None: it is not begun.

    Raises:
        ConfigError: there is no such task, or the config does not fit it.
    """
    name = task_name(fields)
    known = isinstance(name, str) and name in TASKS
    require(known, field="task", value=name, rule="is not a task", remedy=f"Set one of {', '.join(TASKS)}")
    own = {section: value for section, value in fields.items() if section != "task"}
    own = completed(own, workdir) if name == FLOW else own
    return TASKS[name](RUNS[name].from_dict(own), devices)
