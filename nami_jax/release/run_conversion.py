"""From a training run to our folder of converted weights, with the recipe that it was trained by."""

import dataclasses
import subprocess
from pathlib import Path
from typing import Any

import nami_jax
from nami_jax.checkpoints.runs import Run, load_run
from nami_jax.data.prepared import named_set
from nami_jax.data.tfds_builder import stated_license
from nami_jax.release.conversion import Converted
from nami_jax.release.folders import require_new
from nami_jax.release.network_folders import folder_settings, tensors_by_part, write_network


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
        dtype: that all weights are stored in; they compute in the run's own. None: as they are, float32 for the run's.
        allow_missing: go on without an autoencoder or a text encoder that is not where the run's config says.

    Raises:
        CheckpointError: there is no finished checkpoint, or it cannot be read.
        ConfigError: `target` exists, or a part is missing.
        WeightsError: a part is damaged, or the disk is full.
    """
    require_new(target)
    run = load_run(workdir, step)
    return write_network(
        tensors_by_part(run.model, run.bridge),
        run.cfg.pipeline,
        workdir,
        target,
        dtype=dtype,
        allow_missing=allow_missing,
        recipe=training_recipe(run),
    )


def training_recipe(run: Run) -> dict[str, Any]:
    """Returns how a run came to its weights: config and step, the set of its data with its licence, and the code."""
    data = named_set(run.cfg.data)
    copied = folder_settings(run.cfg.pipeline)  # which name the folder's own parts, and no path of this machine
    return {
        "config": dataclasses.replace(run.cfg, text=copied.text, autoencoder=copied.autoencoder).to_dict(),
        "step": run.step,
        "data": None if data is None else dataclasses.asdict(data),
        "data_license": None if data is None else stated_license(data),
        "converted_by": {"nami_jax": nami_jax.__version__, "commit": _commit()},
    }


def _commit() -> str | None:
    """Returns the commit of this code, with "-dirty" where files differ from it; None outside its repository."""
    repository = Path(nami_jax.__file__).parents[1]
    if not (repository / ".git").exists():
        return None
    describe = ["git", "-C", str(repository), "describe", "--always", "--exclude=*", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
