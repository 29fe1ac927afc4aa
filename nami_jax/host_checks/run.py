"""Whether a run fits its devices and its data can be read: what `trainer` would stumble over, before it compiles."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from nami_jax import autoencoder_step, train_step
from nami_jax.autoencoder import Autoencoder
from nami_jax.autoencoder_config import TASK, AutoencoderRun
from nami_jax.config import Config
from nami_jax.data.latents import PreparedLatents
from nami_jax.data.source import open_source
from nami_jax.data.tfds_builder import is_prepared
from nami_jax.host_checks.findings import OK, WARNING, Finding
from nami_jax.sharding import make_mesh, require_divisible
from nami_jax.trainer import check_run

SAMPLES = 16  # that are read, spread over the training split


def read_config(fields: Mapping[str, Any]) -> Config | AutoencoderRun:
    """Returns the checked config of a flow, or of an autoencoder's training."""
    return AutoencoderRun.from_dict(fields) if fields.get("task") == TASK else Config.from_dict(fields)


def make_run_mesh(cfg: Config | AutoencoderRun) -> Mesh:
    """Arranges all devices as the run will; raises `ConfigError` if they cannot be."""
    return make_mesh(cfg.mesh if isinstance(cfg, Config) else None)


def check_mesh(cfg: Config | AutoencoderRun) -> str:
    """Says how the devices are arranged."""
    return " x ".join(f"{axis} {size}" for axis, size in make_run_mesh(cfg).shape.items())


def check_batches(cfg: Config | AutoencoderRun) -> str:
    """Checks that the devices can share each batch and, for a flow, that its text encoder fits."""
    mesh = make_run_mesh(cfg)
    if isinstance(cfg, AutoencoderRun):
        require_divisible("train.batch", ((cfg.train.batch,),), mesh)
        return f"{cfg.train.batch} images a step"
    check_run(cfg, mesh, stop_after=None)
    return f"{', then '.join(' + '.join(map(str, sizes)) for sizes in cfg.train.stage_batches)} images a step"


def abstract_state(cfg: Config | AutoencoderRun, mesh: Mesh) -> dict[str, Any]:
    """Returns the training state as ShapeDtypeStructs with their shardings; nothing is allocated."""
    if isinstance(cfg, AutoencoderRun):
        return autoencoder_step.abstract_state(cfg, mesh)
    return train_step.abstract_state(cfg, mesh)


def check_state(cfg: Config | AutoencoderRun) -> str:
    """Checks that the training state can be sharded, and says how large it is, in all and on each device."""
    leaves = jax.tree.leaves(abstract_state(cfg, make_run_mesh(cfg)))
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    each = sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
    return f"{whole / 1e9:.3g} GB of parameters, EMA and moments; {each / 1e9:.3g} GB on each device"


def checkpoint_bytes(cfg: Config | AutoencoderRun) -> int:
    """Returns the size of a checkpoint: the training state without what is frozen."""
    state = abstract_state(cfg, make_mesh(devices=jax.devices()[:1]))  # sizes are the same for every mesh
    saved = {name: part for name, part in state.items() if name != "frozen"}
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(saved))


def check_data(cfg: Config | AutoencoderRun, facts: dict[str, Mapping[str, str]]) -> Finding:
    """Opens the training data as the run will, unless it would have to be built first, and reads a few samples.

    The number of samples goes into `facts`: it must be the same on all hosts.
    """
    if isinstance(cfg, Config) and cfg.data.prepared is not None:
        prepared = PreparedLatents(Path(cfg.data.prepared), cfg)
        prepared.require_autoencoder(Autoencoder.from_config(cfg.autoencoder, cfg.model).fingerprint)
        sources: Sequence[Any] = prepared.sources("train")
    elif is_prepared(cfg.data):
        sources = [open_source(cfg.data, cfg.data.train_split)]
    else:
        return Finding("data", WARNING, f"{cfg.data.name} is not in {cfg.data.data_dir} yet. Training will build it "
                       "first, on each host that does not find it there.")  # fmt: skip
    lengths = [len(source) for source in sources]
    facts["samples"] = {"train": str(lengths)}
    start, source = time.perf_counter(), sources[0]
    for i in range(SAMPLES):
        _ = source[i * lengths[0] // SAMPLES]
    seconds = (time.perf_counter() - start) / SAMPLES
    return Finding("data", OK, f"{sum(lengths)} samples; {1 / seconds:.0f} a second by one thread", cost=seconds)
