"""A training run's weights to draw with: its newest EMA, with what LoRA leaves frozen merged in, and its bridge."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from nami_jax.checkpoints.checkpoint import Checkpoints
from nami_jax.config import Config, ModelConfig, fixed_fields, require
from nami_jax.models import lora
from nami_jax.models.bridge import AnyBridge, bridge_structure, new_bridge
from nami_jax.models.nami import Nami, abstract_model
from nami_jax.weights import Shardings, open_tensors
from nami_jax.weights.converted import PIPELINE_FILE, TRANSFORMER, read_pipeline_config
from nami_jax.weights.nami_keys import load_nami

BASE = "base"  # folder in a workdir: what LoRA leaves frozen, where that came from another run


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
    params = checkpoints.item(step, "ema", placed(low_rank if cfg.model.lora_rank else shapes, shardings))
    bridge, structure = None, bridge_structure(cfg)
    if structure is not None:
        bridge_shapes = jax.eval_shape(lambda: new_bridge(cfg))
        bridge = nnx.merge(structure, checkpoints.item(step, "bridge", placed(bridge_shapes, shardings)))
    if cfg.model.lora_rank:
        # In float32: added to bfloat16 kernels, most of a small update would be rounded away.
        base = load_frozen(cfg, checkpoints.folder.parent, "float32", shardings)
        params = lora.merge(lora.join(params, base))
    plain = dataclasses.replace(cfg.model, lora_rank=None, dtype=dtype or cfg.model.dtype)
    return Run(cfg, nnx.merge(abstract_model(plain)[0], params), bridge, step, checkpoints.frozen(step))


def load_pairs(workdir: Path, model: ModelConfig) -> Any:
    """Loads the low-rank pairs of a LoRA run's newest whole checkpoint, its EMA, as nested dicts of float32.

    Args:
        workdir: of the run.
        model: the network that they are to be added to.

    Raises:
        CheckpointError: there is no finished checkpoint, or it is damaged.
        ConfigError: the run trains no pairs, or those of another network.
    """
    with Checkpoints(workdir) as checkpoints:

        def load(step: int) -> Any:
            cfg = checkpoints.config(step)
            require(
                cfg.model.lora_rank is not None,
                field="lora",
                value=str(workdir),
                rule="is a run of a whole network, without low-rank pairs",
                remedy="Pass a run with model.lora_rank, or draw with this one by itself",
            )
            require_same_network(model, cfg.model, workdir)
            low_rank, _ = lora.split(abstract_model(cfg.model)[1])
            return checkpoints.item(step, "ema", placed(low_rank, None))

        return checkpoints.latest_valid(load)


def placed(shapes: Any, shardings: Shardings | None) -> Any:
    """Returns ShapeDtypeStructs with `shardings`, or all on the first device of this process."""
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    where = jax.tree.map(lambda _: first, shapes) if shardings is None else shardings(shapes)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, where)


def frozen_folder(cfg: Config, workdir: Path) -> Path:
    """Returns the converted folder with the parameters that a LoRA run leaves frozen.

    Raises:
        ConfigError: it is gone.
    """
    own = workdir / BASE
    folder = own if own.is_dir() else Path(cfg.train.init_from or "")
    require(
        (folder / TRANSFORMER).is_dir(),
        field="train.init_from",
        value=str(folder),
        rule=f"contains no converted weights, to which the low-rank pairs in {workdir} belong",
        remedy="Put back what was there: `python -m nami_jax.convert --from RELEASE --to FOLDER` makes it of a release",
    )
    return folder


def load_frozen(cfg: Config, workdir: Path, dtype: str, shardings: Shardings | None = None) -> Any:
    """Loads the parameters that a LoRA run leaves frozen, as nested dicts.

    Args:
        cfg: the run.
        workdir: of the run.
        dtype: of the parameters.
        shardings: abstract parameters -> shardings; None puts all on the first device.

    Raises:
        ConfigError: they are gone, or of another network than `cfg.model`.
        WeightsError: they are damaged or incomplete.
    """
    return load_folder(frozen_folder(cfg, workdir), cfg.model, dtype, shardings)


def load_folder(folder: Path, cfg: ModelConfig, dtype: str, shardings: Shardings | None = None) -> Any:
    """Loads the network in a converted folder as nested dicts, whatever `cfg.lora_rank` will add to it.

    Raises:
        ConfigError: it is another network than `cfg`.
        WeightsError: it is damaged or incomplete.
    """
    tensors = open_folder(folder, cfg)
    plain = dataclasses.replace(cfg, lora_rank=None)
    model = load_nami(plain, tensors, param_dtype=jnp.dtype(dtype), shardings=shardings)
    return nnx.to_pure_dict(nnx.state(model))


def open_folder(folder: Path, cfg: ModelConfig) -> dict[str, Any]:
    """Opens the tensors of the network in a converted folder, by name, and reads none; raises as `load_folder`."""
    if (folder / PIPELINE_FILE).is_file():
        require_same_network(read_pipeline_config(folder).model, cfg, folder)
    return dict(open_tensors(folder / TRANSFORMER))


def require_same_network(found: ModelConfig, wanted: ModelConfig, folder: Path) -> None:
    """Checks that a network is the one that is wanted, also in what the tensors' shapes do not show.

    Raises:
        ConfigError: a size differs, or how the stages are cut.
    """
    for name in fixed_fields(Config)["model"]:
        if name != "lora_rank":  # pairs are added to what is loaded
            require_same_size(name, getattr(wanted, name), getattr(found, name), folder)


def require_same_size(name: str, value: Any, own: Any, folder: Path) -> None:
    """Raises `ConfigError` if the field `name` of a model differs from that of the network in `folder`."""
    require(
        value == own,
        field=f"model.{name}",
        value=value,
        rule=f"the network in {folder} has {own!r}",
        remedy="Set that value, or None to take it from there",
    )
