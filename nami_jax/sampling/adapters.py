"""Low-rank adapters of a network that draws: added to its kernels, several with weights, and taken off again.

The sum is stored, so that drawing costs what it does without. What the adapted kernels were is kept on the host.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from nami_jax.checkpoints.runs import load_pairs
from nami_jax.config import require, shown
from nami_jax.models.nami import Nami, abstract_model
from nami_jax.weights import open_tensors, save_tensors
from nami_jax.weights.adapter_keys import (
    Adapter,
    adapted_slots,
    adapter_of,
    adapter_tensors,
    add_adapter,
    read_adapter,
)

FILE = "adapter_model"  # as PEFT calls it


class Loaded(NamedTuple):
    """An adapter, and how much of it is added."""

    adapter: Adapter
    scale: float


class Adapters:
    """The adapters of a network. Nothing is changed in place: what draws meanwhile draws as it began."""

    def __init__(self) -> None:
        """Begins without any."""
        self._loaded: dict[str, Loaded] = {}
        self._plain: dict[Any, np.ndarray] = {}  # the adapted kernels without adapters, by path

    @property
    def scales(self) -> dict[str, float]:
        """How much of each adapter is added, by name."""
        return {name: loaded.scale for name, loaded in self._loaded.items()}

    def add(self, model: Nami, path: Path, scale: float, name: str | None) -> Nami:
        """Returns a network with one adapter more, or with another in the place of the one of that name.

        Args:
            model: the network, with the adapters so far.
            path: the workdir of a run of low-rank pairs, a safetensors file, or a folder with one.
            scale: of what is added.
            name: None: the file's or the folder's.

        Raises:
            CheckpointError, ConfigError, WeightsError: it is none of these, or of another network.
        """
        _require_scale(scale)
        return self._put(model, self._loaded | {name or path.stem: Loaded(read(path, model), float(scale))})

    def rescale(self, model: Nami, name: str, scale: float) -> Nami:
        """Returns the network with another scale of one adapter; raises `ConfigError` if there is none of that name."""
        _require_scale(scale)
        self.require_known(name)
        return self._put(model, self._loaded | {name: self._loaded[name]._replace(scale=float(scale))})

    def remove(self, model: Nami, name: str | None) -> Nami:
        """Returns the network without one adapter, None: without any, and then bit for bit as it was before."""
        if name is not None:
            self.require_known(name)
        kept = {} if name is None else {other: loaded for other, loaded in self._loaded.items() if other != name}
        return self._put(model, kept)

    def save(self, path: Path, name: str) -> None:
        """Writes an adapter as a safetensors file, or into a folder, by the keys of diffusers."""
        self.require_known(name)
        folder, stem = (path.parent, path.stem) if path.suffix == ".safetensors" else (path, FILE)
        save_tensors(adapter_tensors(self._loaded[name].adapter), folder, stem)

    def require_known(self, name: str) -> None:
        """Raises `ConfigError` if no adapter has that name."""
        require(
            name in self._loaded,
            field="name",
            value=name,
            rule="no such adapter is loaded",
            remedy=f"Pass one of {shown(list(self._loaded))}" if self._loaded else "Load one with load_lora",
        )

    def _put(self, model: Nami, wanted: Mapping[str, Loaded]) -> Nami:
        graphdef, state = nnx.split(model)
        params: dict[Any, Any] = flatten_dict(nnx.to_pure_dict(state))
        paths = {slot.path for loaded in wanted.values() for slot in adapted_slots(model.cfg, loaded.adapter).values()}
        plain = {path: self._plain.get(path, None) for path in paths | self._plain.keys()}
        plain = {path: np.asarray(params[path]) if kernel is None else kernel for path, kernel in plain.items()}
        # In float32: added to bfloat16 kernels, most of a small update would be rounded away.
        kernels = {path: np.array(plain[path], np.float32) for path in paths}
        for adapter, scale in wanted.values():
            add_adapter(kernels, model.cfg, adapter, scale)
        for path, kernel in plain.items():
            kernel = kernels.get(path, kernel).astype(params[path].dtype)
            params[path] = jax.device_put(kernel, params[path].sharding)
        self._loaded, self._plain = dict(wanted), {path: plain[path] for path in paths}
        return nnx.merge(graphdef, unflatten_dict(params))


def _require_scale(scale: float) -> None:
    require(
        isinstance(scale, int | float) and bool(np.isfinite(scale)),
        field="scale",
        value=scale,
        rule="must be a number",
        remedy="Set 1.0 for the adapter as it was trained",
    )


def read(path: Path, model: Nami) -> Adapter:
    """Reads the adapter at `path`, for a network; raises as `Adapters.add`."""
    shapes = abstract_model(model.cfg)[1]
    if (path / "checkpoints").is_dir():
        return adapter_of(load_pairs(path, model.cfg), model.cfg, flatten_dict(shapes))
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    require(
        len(files) == 1 and files[0].is_file(),
        field="lora",
        value=str(path),
        rule=f"has {len(files)} safetensors files and no checkpoints" if path.is_dir() else "is not there",
        remedy="Pass the workdir of a run with model.lora_rank, or an adapter's safetensors file",
    )
    return read_adapter(open_tensors(files[0]), model.cfg, shapes, files[0])
