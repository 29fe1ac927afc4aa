"""From a training run to our folder of converted weights, with the recipe that it was trained by."""

import subprocess
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

import nami_jax
from nami_jax.checkpoints.runs import Run, load_run
from nami_jax.data.tfds_builder import stated_license
from nami_jax.release.conversion import Converted
from nami_jax.release.folders import require_new
from nami_jax.release.network_folders import write_network

NetworkT = TypeVar("NetworkT", bound=nnx.Module)


def convert_run(
    workdir: Path,
    target: Path,
    *,
    step: int | None = None,
    dtype: str | None = None,
    allow_missing: bool = False,
) -> Converted:
    """Writes a training run as a folder that `NamiPipeline` loads on any machine: all parts, and how to sample.

    Args:
        workdir: of the run.
        target: a new folder.
        step: which checkpoint; None takes the newest.
        dtype: that the network and its bridge are stored in; they compute in the run's own. None: float32, as trained.
        allow_missing: go on without an autoencoder or a text encoder that is not where the run's config says.

    Raises:
        CheckpointError: there is no finished checkpoint, or it cannot be read.
        ConfigError: `target` exists, or a part is missing.
        WeightsError: a part is damaged, or the disk is full.
    """
    require_new(target)
    run = load_run(workdir, step)
    model, bridge = run.model, run.bridge
    if dtype is not None:
        model, bridge = _stored_in(dtype, model), None if bridge is None else _stored_in(dtype, bridge)
    settings = run.cfg.pipeline
    return write_network(
        model, bridge, settings, workdir, target, allow_missing=allow_missing, recipe=training_recipe(run)
    )


def training_recipe(run: Run) -> dict[str, Any]:
    """Returns how a run came to its weights: its config and step, the licence of its data, and the code."""
    return {
        "config": run.cfg.to_dict(),
        "step": run.step,
        "data_license": stated_license(run.cfg.data),
        "converted_by": {"nami_jax": nami_jax.__version__, "commit": _commit()},
    }


def _stored_in(dtype: str, network: NetworkT) -> NetworkT:
    structure, params = nnx.split(network)
    return nnx.merge(structure, jax.tree.map(lambda x: x.astype(jnp.dtype(dtype)), params))


def _commit() -> str | None:
    """Returns the commit of this code, with "-dirty" where files differ from it; None outside a repository."""
    git = ["git", "-C", str(Path(nami_jax.__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
