"""Trained weights from disk: of a training run, to sample from or to export, and of a release, to fine-tune."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from nami_jax.checkpoints.checkpoint import Checkpoints
from nami_jax.config import Config, ConfigError, ModelConfig, fixed_fields, require
from nami_jax.models import lora
from nami_jax.models.bridge import AnyBridge, bridge_structure, new_bridge
from nami_jax.models.nami import Nami, abstract_model
from nami_jax.weights import Shardings, open_tensors
from nami_jax.weights.converted import BRIDGE, PIPELINE_FILE, read_pipeline_config
from nami_jax.weights.nami_keys import load_bridge, load_nami


class Run(NamedTuple):
    """The result of a training run so far."""

    cfg: Config
    model: Nami  # its EMA weights, low-rank pairs merged in
    bridge: AnyBridge | None
    step: int
    frozen: Mapping[str, str] = MappingProxyType({})  # fingerprints of the networks it was trained with, by name


def load_run(
    workdir: Path, step: int | None = None, dtype: str | None = None, shardings: Shardings | None = None
) -> Run:
    """Loads the weights to sample with from a training run's workdir, float32.

    Args:
        workdir: of the run.
        step: which checkpoint; None takes the newest valid one, and warns of damaged ones.
        dtype: compute type of the network; None: as in training.
        shardings: abstract parameters -> shardings; None puts all on the first device.

    Raises:
        CheckpointError: there is no finished checkpoint, or it is damaged.
        ConfigError: the run is a LoRA, and the folder of its base weights is gone.
    """
    with Checkpoints(workdir) as checkpoints:

        def load(step: int) -> Run:
            return _load_step(checkpoints, step, dtype, shardings)

        return checkpoints.latest_valid(load) if step is None else load(step)


def _load_step(checkpoints: Checkpoints, step: int, dtype: str | None, shardings: Shardings | None) -> Run:
    cfg = checkpoints.config(step)
    _, shapes = abstract_model(cfg.model)
    low_rank, _ = lora.split(shapes)
    params = checkpoints.item(step, "ema", _placed(low_rank if cfg.model.lora_rank else shapes, shardings))
    bridge, structure = None, bridge_structure(cfg)
    if structure is not None:
        bridge_shapes = jax.eval_shape(lambda: new_bridge(cfg))
        bridge = nnx.merge(structure, checkpoints.item(step, "bridge", _placed(bridge_shapes, shardings)))
    if cfg.model.lora_rank:
        # In float32: added to bfloat16 kernels, most of a small update would be rounded away.
        params = lora.merge(lora.join(params, load_base(cfg, "float32", shardings)))
    plain = dataclasses.replace(cfg.model, lora_rank=None, dtype=dtype or cfg.model.dtype)
    return Run(cfg, nnx.merge(abstract_model(plain)[0], params), bridge, step, checkpoints.frozen(step))


def _placed(shapes: Any, shardings: Shardings | None) -> Any:
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    where = jax.tree.map(lambda _: first, shapes) if shardings is None else shardings(shapes)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, where)


def load_base(cfg: Config, dtype: str, shardings: Shardings | None = None) -> Any:
    """Loads the parameters that a run starts from, as nested dicts.

    Args:
        cfg: the run; `train.init_from` is a folder of converted weights.
        dtype: of the parameters.
        shardings: abstract parameters -> shardings; None puts all on the first device.

    Raises:
        ConfigError: the folder is missing, or of another network than `cfg.model`.
        WeightsError: its weights are damaged or incomplete.
    """
    plain, tensors = dataclasses.replace(cfg.model, lora_rank=None), open_base(cfg)
    model = load_nami(plain, tensors, param_dtype=jnp.dtype(dtype), shardings=shardings)
    return nnx.to_pure_dict(nnx.state(model))


def open_base(cfg: Config) -> Mapping[str, Any]:
    """Opens the tensors of the network that a run starts from, by name, and reads none.

    Raises:
        ConfigError: the folder is missing, or of another network than `cfg.model`.
        WeightsError: its files are damaged or incomplete.
    """
    folder = base_folder(cfg)
    if (folder / PIPELINE_FILE).is_file():
        _require_same_network(read_pipeline_config(folder).model, cfg.model, folder)
    return open_tensors(folder / "transformer")


def _require_same_network(found: ModelConfig, wanted: ModelConfig, folder: Path) -> None:
    """Compares what the tensors' shapes alone do not show, such as how the stages are cut."""
    for name in fixed_fields(Config)["model"]:
        if name != "lora_rank":  # pairs are added to what is loaded
            value, own = getattr(wanted, name), getattr(found, name)
            require(
                value == own,
                field=f"model.{name}",
                value=value,
                rule=f"the network in {folder} has {own!r}",
                remedy="Set that value",
            )


def load_base_bridge(cfg: Config) -> Any | None:
    """Loads the parameters of the bridge in `train.init_from`; None if the run or the folder has no such bridge.

    Raises:
        ConfigError: the bridge is for other sizes than those of the run.
    """
    if cfg.train.init_from is None or cfg.bridge.kind != "full":
        return None
    folder = base_folder(cfg) / BRIDGE
    if not folder.is_dir():
        return None
    bridge = load_bridge(open_tensors(folder))
    wanted = jax.eval_shape(lambda: new_bridge(cfg))["shifts"]
    sizes, own = ([tuple(shift.shape) for shift in shifts] for shifts in (wanted.values(), bridge.shifts))
    require(
        sizes == own,
        field="data.side",
        value=cfg.data.side,
        rule=f"the bridge in {folder} has shifts of {own}, but these stages need {sizes}",
        remedy=f"Set {own[-1][0] * cfg.autoencoder.downscale}, or bridge.kind = None and sample.transition = 'renoise'",
    )
    return nnx.to_pure_dict(nnx.state(bridge))


def base_folder(cfg: Config) -> Path:
    """Returns `train.init_from`, or raises `ConfigError` if no converted weights are there."""
    folder = Path(cfg.train.init_from or "")
    if not (folder / "transformer").is_dir():
        raise ConfigError(
            f"train.init_from = {cfg.train.init_from!r}: contains no converted weights. Create them with "
            "`python -m nami_jax.convert --from RELEASE --to FOLDER` and set it to that folder."
        )
    return folder
