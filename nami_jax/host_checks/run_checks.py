"""Whether a run fits its devices and its data can be read: what `trainer` would stumble over, before it compiles."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from nami_jax.autoencoder.codec import Autoencoder
from nami_jax.checkpoints.runs import open_base
from nami_jax.config import Config
from nami_jax.config.autoencoder_run import TASK, AutoencoderRun
from nami_jax.data.captioned_images import open_source
from nami_jax.data.latents import SPLITS, PreparedLatents
from nami_jax.data.tfds_builder import is_prepared
from nami_jax.host_checks.findings import OK, WARNING, Finding
from nami_jax.parallel.sharding import make_mesh, require_divisible
from nami_jax.training import step as train_step
from nami_jax.training.autoencoder import reconstruction as autoencoder_step
from nami_jax.training.loop import check_run

SAMPLES = 16  # that are read of each source, spread over it


def read_config(fields: Mapping[str, Any]) -> Config | AutoencoderRun:
    """Returns the checked config of a flow, or of an autoencoder's training."""
    return AutoencoderRun.from_dict(fields) if fields.get("task") == TASK else Config.from_dict(fields)


def make_run_mesh(cfg: Config | AutoencoderRun) -> Mesh:
    """Arranges all devices as the run will; raises `ConfigError` if they cannot be."""
    return make_mesh(cfg.mesh if isinstance(cfg, Config) else None)


def check_mesh(cfg: Config | AutoencoderRun) -> str:
    """Says how the devices are arranged."""
    return " x ".join(f"{axis} {size}" for axis, size in make_run_mesh(cfg).shape.items())


def check_settings(cfg: Config | AutoencoderRun) -> str:
    """Checks that the devices can share each batch and, for a flow, the network, and that the text encoder fits it."""
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


def needs_weights(cfg: Config | AutoencoderRun, workdir: Path) -> bool:
    """Tells whether the run will read `train.init_from`: at its begin, and with LoRA whenever it continues."""
    if isinstance(cfg, AutoencoderRun) or cfg.train.init_from is None:
        return False
    return cfg.model.lora_rank is not None or not any((workdir / "checkpoints").glob("[0-9]*"))


def check_weights(cfg: Config | AutoencoderRun) -> str:
    """Opens the weights that a flow starts from, and reads none."""
    assert isinstance(cfg, Config)
    return f"{len(open_base(cfg))} tensors to start from"


def checkpoint_bytes(cfg: Config | AutoencoderRun) -> int:
    """Returns the size of a checkpoint: the training state without what is frozen."""
    state = abstract_state(cfg, make_mesh(devices=jax.devices()[:1]))  # sizes are the same for every mesh
    saved = {name: part for name, part in state.items() if name != "frozen"}
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(saved))


def check_data(cfg: Config | AutoencoderRun, facts: dict[str, Mapping[str, str]]) -> Finding:
    """Opens the data as the run will, unless they would have to be built first, and reads a few samples of each source.

    The numbers of samples go into `facts`: they must be the same on all hosts.
    """
    if isinstance(cfg, Config) and cfg.data.prepared is not None:
        prepared = PreparedLatents(Path(cfg.data.prepared), cfg)
        prepared.require_autoencoder(Autoencoder.from_config(cfg.autoencoder, cfg.model).fingerprint)
        sources: dict[str, Sequence[Any]] = {split: prepared.sources(split) for split in SPLITS}
    elif is_prepared(cfg.data):
        names = (cfg.data.train_split, cfg.data.eval_split)
        sources = {split: [open_source(cfg.data, name)] for split, name in zip(SPLITS, names, strict=True)}
    else:
        return Finding(
            "data",
            WARNING,
            f"{cfg.data.name} is not in {cfg.data.data_dir} yet. Training will build it "
            "first, on each host that does not find it there.",
        )
    facts["samples"] = {split: str([len(source) for source in those]) for split, those in sources.items()}
    flat = [source for those in sources.values() for source in those]
    start = time.perf_counter()
    for source in flat:
        for i in range(SAMPLES):
            _ = source[i * len(source) // SAMPLES]
    seconds = (time.perf_counter() - start) / (SAMPLES * len(flat))
    count = sum(map(len, sources["train"]))
    return Finding("data", OK, f"{count} samples to train on; reads {1 / seconds:.0f} a second", cost=seconds)
