"""Trained weights from disk: of a training run, to sample from or to export, and of a release, to fine-tune.

`checkpoint` and `pretrained` read the files; here their parts become networks.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from nami_jax import lora
from nami_jax.checkpoint import Checkpoints
from nami_jax.config import Config, ConfigError
from nami_jax.models.bridge import AnyBridge
from nami_jax.models.nami import Nami, abstract_model
from nami_jax.pretrained import load_bridge, load_nami
from nami_jax.train_step import bridge_structure, new_bridge
from nami_jax.weights import open_tensors


class Run(NamedTuple):
    """What a training run has come to."""

    cfg: Config
    model: Nami  # its EMA weights, low-rank pairs merged in
    bridge: AnyBridge | None
    step: int


def load_run(workdir: Path, step: int | None = None) -> Run:
    """Loads the weights to sample with from a training run's workdir.

    Args:
        workdir: of the run.
        step: which checkpoint; None takes the newest.

    Raises:
        CheckpointError: there is no finished checkpoint, or it cannot be read.
        ConfigError: the run is a LoRA, and the folder of the weights beneath it is gone.
    """
    with Checkpoints(workdir) as checkpoints:
        step = checkpoints.latest_step() if step is None else step
        cfg = checkpoints.config(step)
        _, shapes = abstract_model(cfg.model)
        low_rank, _ = lora.split(shapes)
        params = checkpoints.item(step, "ema", _on_first_device(low_rank if cfg.model.lora_rank else shapes))
        bridge = None
        structure = bridge_structure(cfg)
        if structure is not None:
            shapes = jax.eval_shape(lambda: new_bridge(cfg))
            bridge = nnx.merge(structure, checkpoints.item(step, "bridge", _on_first_device(shapes)))
    if cfg.model.lora_rank:
        params = lora.merge(lora.join(params, load_base(cfg)))
    plain = dataclasses.replace(cfg.model, lora_rank=None)
    return Run(cfg, nnx.merge(abstract_model(plain)[0], params), bridge, step)


def _on_first_device(shapes: Any) -> Any:
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), shapes)


def load_base(cfg: Config, shardings: Callable[[Any], Any] | None = None) -> Any:
    """Loads the parameters that a run starts from, as nested dicts.

    Args:
        cfg: the run; `train.init_from` is a folder of converted weights.
        shardings: abstract parameters -> shardings; None puts all on the first device.

    Returns:
        float32 parameters, or, where LoRA leaves them frozen, in the network's compute type.

    Raises:
        ConfigError: the folder is missing.
        WeightsError: it holds another network than `cfg.model`.
    """
    plain = dataclasses.replace(cfg.model, lora_rank=None)
    dtype = jnp.float32 if cfg.model.lora_rank is None else jnp.dtype(cfg.model.dtype)
    tensors = open_tensors(base_folder(cfg) / "transformer")
    return nnx.to_pure_dict(nnx.state(load_nami(plain, tensors, param_dtype=dtype, shardings=shardings)))


def load_base_bridge(cfg: Config) -> Any | None:
    """Loads the parameters of the bridge in `train.init_from`; None if the run or the folder has no such bridge."""
    if cfg.train.init_from is None or cfg.bridge.kind != "full":
        return None
    folder = base_folder(cfg) / "bridge_flow"
    return nnx.to_pure_dict(nnx.state(load_bridge(open_tensors(folder)))) if folder.is_dir() else None


def base_folder(cfg: Config) -> Path:
    """Returns `train.init_from`, or raises `ConfigError` if no converted weights are there."""
    folder = Path(cfg.train.init_from or "")
    if not (folder / "transformer").is_dir():
        raise ConfigError(
            f"train.init_from = {cfg.train.init_from!r}: holds no converted weights. Make them with "
            "`python -m nami_jax.convert --from RELEASE --to FOLDER` and set that folder."
        )
    return folder
