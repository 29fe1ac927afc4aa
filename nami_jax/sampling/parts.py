"""What a pipeline is put together from: the networks of a run, or of a folder of converted weights."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from nami_jax.checkpoints.runs import load_run
from nami_jax.config import PipelineConfig, require
from nami_jax.files.output_folder import require_readable
from nami_jax.models.bridge import AnyBridge
from nami_jax.models.nami import Nami
from nami_jax.weights import Shardings, open_tensors
from nami_jax.weights.converted import (
    BRIDGE,
    PIPELINE_FILE,
    TRANSFORMER,
    find_folder,
    inside,
    read_pipeline_config,
    require_parts,
    shipped_models,
)
from nami_jax.weights.nami_keys import is_norm, load_nami, read_bridge

REMEDY = "Pass a run's workdir, a folder of converted weights or the name of a model that comes with nami_jax"


class Parts(NamedTuple):
    """A network with what is known of it."""

    model: Nami
    cfg: PipelineConfig
    bridge: AnyBridge | None
    source: str  # for people
    frozen: Mapping[str, str] = MappingProxyType({})  # fingerprints of the networks it was trained with, by name


def load_parts(given: str | Path, step: int | None, dtype: str | None, shardings: Shardings | None) -> Parts:
    """Loads the network and its bridge.

    Args:
        given: a run's workdir, a folder that `nami_jax.convert` wrote, or the name of a model that comes with nami_jax.
        step: which checkpoint of a run; None: the newest.
        dtype: compute type of all networks; None: as configured.
        shardings: abstract parameters -> shardings; None puts all on the first device.

    Raises:
        CheckpointError: a run has no finished checkpoint, or it cannot be read.
        ConfigError: it is none of these, or lacks a part.
        WeightsError: weights are missing or damaged.
    """
    path = find_folder(given)
    require_readable(path, field="checkpoint", remedy=REMEDY)
    require(
        path.exists(),
        field="checkpoint",
        value=str(given),
        rule="is not there",
        remedy=f"{REMEDY}: {', '.join(shipped_models())}",
    )
    converted = (path / PIPELINE_FILE).is_file()
    require(
        converted or not (path / TRANSFORMER).is_dir(),
        field="checkpoint",
        value=str(path),
        rule=f"has {TRANSFORMER}/ but no {PIPELINE_FILE}: it is not converted",
        remedy=f"Run `python -m nami_jax.convert --from {path} --to FOLDER`, and use FOLDER",
    )
    if not converted:
        run = load_run(path, step, dtype, shardings)
        model = in_compute_type(run.model)
        return Parts(model, _with_dtype(run.cfg.pipeline, dtype), run.bridge, f"{given} step {run.step}", run.frozen)
    require(
        step is None,
        field="step",
        value=step,
        rule=f"{path} contains converted weights, not a run",
        remedy="Leave it out",
    )
    return _load_converted(path, str(given), dtype, shardings)


def in_compute_type(model: Nami) -> Nami:
    """Returns a network that holds what its products take in the type in which they take it, once.

    Otherwise each step would round the parameters of a run, which are float32, again. The network that is given is gone
    afterwards: its parameters are freed one by one, so that the two are never in memory together.
    """
    dtype = jnp.dtype(model.cfg.dtype)
    structure, params = nnx.split(model)

    def hold(path: Any, x: jax.Array) -> jax.Array:
        if x.dtype == dtype or is_norm(path):
            return x
        held = jax.block_until_ready(x.astype(dtype))
        x.delete()
        return held

    return nnx.merge(structure, jax.tree_util.tree_map_with_path(hold, nnx.to_pure_dict(params)))


def _load_converted(path: Path, source: str, dtype: str | None, shardings: Shardings | None) -> Parts:
    cfg = read_pipeline_config(path)
    require_parts(path, cfg)
    cfg = _with_dtype(inside(cfg, path), dtype)
    model = load_nami(
        cfg.model, open_tensors(path / TRANSFORMER), param_dtype=jnp.dtype(cfg.model.dtype), shardings=shardings
    )
    kind = cfg.bridge.kind
    bridge = None if kind is None else read_bridge(kind, cfg.model, open_tensors(path / BRIDGE))
    return Parts(model, cfg, bridge, source)


def _with_dtype(cfg: PipelineConfig, dtype: str | None) -> PipelineConfig:
    return cfg if dtype is None else dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, dtype=dtype))
