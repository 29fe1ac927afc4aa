"""Tensors on disk and parameters on devices, related by a table of slots. Knows no network; all networks load by it.

Every network here stores its weights under the key names of its PyTorch release. A `Slot` says where such a tensor lies
in our parameters; reading (`load_params`) and writing (`export_tensors`) both walk the same table.
"""

import functools
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401  (makes "bfloat16" a NumPy dtype, which safetensors then returns)
import numpy as np
from flax import nnx
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

Shapes = Mapping[str, tuple[int, ...]]
ParamPath = tuple[Any, ...]
SHARD_BYTES = 2 * 1024**3


class WeightsError(ValueError):
    """Weights that do not fit a network. The message lists every missing, unexpected and misshapen key."""


class Tensor(Protocol):
    """What a loader needs of a tensor: NumPy arrays have it, and `StoredTensor` reads the asked part from disk."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102
    def __getitem__(self, index: Any, /) -> np.ndarray: ...


class StoredTensor(NamedTuple):
    """A tensor in a safetensors file. `tensor[index]` opens the file, reads that part and closes it again.

    So no more of a file stays in memory than what is being read.
    """

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: str  # as safetensors names it: "F32", "BF16", ...

    def __getitem__(self, index: Any) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Reads a part; `index` is slices or `...`."""
        with safe_open(self.file, "np") as file:
            return file.get_slice(self.key)[index]


class Slot(NamedTuple):
    """Where one released tensor lies in our parameters.

    Attributes:
        path: of our parameter.
        index: into that parameter, e.g. the block of a stack and which of queries, keys and values.
    """

    path: ParamPath
    index: tuple[Any, ...] = ()


def open_tensors(path: Path) -> dict[str, StoredTensor]:
    """Lists the tensors of a safetensors file, or of all such files in a folder (a release cut into shards).

    Args:
        path: a file, or a folder; if the folder has a `*.safetensors.index.json`, the files it names must be there.

    Raises:
        WeightsError: no such file, a shard is missing or damaged, or two files hold the same key.
    """
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    for index in path.glob("*.safetensors.index.json") if path.is_dir() else ():
        files = [path / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        raise WeightsError(
            f"{path}: {', '.join(missing) or 'no .safetensors file'} not found. Give a complete release."
        )
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        try:
            with safe_open(file, "np") as opened:
                for key in opened.keys():  # noqa: SIM118  (not a mapping)
                    if key in tensors:
                        raise WeightsError(f"{key} is in both {tensors[key].file} and {file}. Keep one of them.")
                    part = opened.get_slice(key)
                    tensors[key] = StoredTensor(file, key, tuple(part.get_shape()), part.get_dtype())
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{file} is damaged or no safetensors file: {error}. Fetch it again.") from error
    return tensors


def save_tensors(tensors: Mapping[str, np.ndarray], folder: Path, stem: str, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes tensors to `stem.safetensors`, or to several shards and their index where they exceed `shard_bytes`.

    Args:
        tensors: key -> array. A lazy mapping (`StoredTensor`s read one by one) keeps memory at one shard.
        folder: made if need be.
        stem: e.g. "model" or "diffusion_pytorch_model", as the release names it.
        shard_bytes: largest size of one file; a larger tensor has a file to itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plan = split_state_dict_into_shards_factory(
        dict(tensors), get_storage_size=_storage_size, filename_pattern=stem + "{suffix}.safetensors",
        max_shard_size=shard_bytes,
    )  # fmt: skip
    for name, keys in plan.filename_to_tensors.items():
        save_file({key: np.ascontiguousarray(tensors[key][...]) for key in keys}, folder / name, {"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


_ITEM_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def _storage_size(tensor: Any) -> int:
    item = _ITEM_BYTES[tensor.dtype] if isinstance(tensor, StoredTensor) else tensor.dtype.itemsize
    return int(np.prod(tensor.shape)) * item


def require_tensors(expected: Shapes, found: Shapes, unused: Collection[str] = ()) -> None:
    """Compares shapes key by key.

    Args:
        expected: what the network has.
        found: what the file holds.
        unused: keys that the file may hold and the network does not need.

    Raises:
        WeightsError: they differ; the message lists every difference.
    """
    lines = [f"missing     {key} {expected[key]}" for key in expected.keys() - found.keys()]
    lines += [f"unexpected  {key} {found[key]}" for key in found.keys() - expected.keys() - set(unused)]
    lines += [
        f"misshapen   {key}: {found[key]}, the network has {expected[key]}"
        for key in expected.keys() & found.keys()
        if tuple(expected[key]) != tuple(found[key])
    ]
    if lines:
        listed = "\n  ".join(sorted(lines))
        raise WeightsError(f"the weights do not fit the network; take weights and sizes from one release:\n  {listed}")


RELEASED_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}


def slots_by_name(abstract: Any, names: Mapping[str, str] | None = None) -> dict[str, Slot]:
    """Returns the slots of a network whose parameters correspond one to one to the released tensors.

    Args:
        abstract: our parameters, nested dicts.
        names: our name of a module -> its released name, where they differ. Kernels, scales and embedding tables are
            all released as "weight".
    """
    names = RELEASED_LEAVES | dict(names or {})
    return {".".join(names.get(str(p), str(p)) for p in path): Slot(path) for path, _ in leaves(abstract)}


def load_module(
    make: Callable[[], Any],
    slots: Callable[[Any], Mapping[str, Slot]],
    tensors: Mapping[str, Tensor],
    *,
    param_dtype: jax.typing.DTypeLike = jnp.float32,
    shardings: Callable[[Any], Any] | None = None,
    unused: Collection[str] = (),
) -> Any:
    """Builds a network around released weights, without drawing random ones first.

    Args:
        make: builds the network with any parameters; only its structure is used.
        slots: abstract parameters (nested dicts) -> released key -> slot.
        tensors: released key -> tensor.
        param_dtype: type of the parameters, whatever type they are stored in.
        shardings: abstract parameters -> their shardings in the same structure; None puts all on the first device.
        unused: keys that may be there and are not needed.

    Raises:
        WeightsError: keys are missing, unexpected or misshapen; all are listed.
    """
    graphdef, state = nnx.split(nnx.eval_shape(make))
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, param_dtype), nnx.to_pure_dict(state))
    table = slots(abstract)
    if shardings is not None:
        abstract = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings(abstract)
        )
    return nnx.merge(graphdef, load_params(abstract, table, tensors, unused))


def load_params(
    abstract: Any, slots: Mapping[str, Slot], tensors: Mapping[str, Tensor], unused: Collection[str] = ()
) -> Any:
    """Reads released tensors straight into device arrays, each device its own part.

    Memory on the host stays at one tensor above what the devices hold (on a CPU they are the host).

    Args:
        abstract: our parameters as nested dicts of ShapeDtypeStruct, whose dtype and sharding say how each is to lie on
            the devices; without a sharding it goes to the first device.
        slots: released key -> slot; together they must cover every parameter.
        tensors: released key -> tensor; linear weights are (outputs, inputs), those of convolutions (O, I, H, W).
        unused: keys that may be there and are not needed.

    Returns:
        Nested dicts of arrays.

    Raises:
        WeightsError: keys are missing, unexpected or misshapen; all are listed.
    """
    shapes = dict(leaves(abstract))
    expected = {key: released_shape(slot, shapes[slot.path].shape) for key, slot in slots.items()}
    require_tensors(expected, {key: tuple(tensor.shape) for key, tensor in tensors.items()}, unused)
    members: dict[ParamPath, list[tuple[Slot, Tensor]]] = {path: [] for path in shapes}
    for key, slot in slots.items():
        members[slot.path].append((slot, tensors[key]))
    default = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    arrays = {
        path: jax.make_array_from_callback(
            leaf.shape, leaf.sharding or default, functools.partial(_part, leaf=leaf, members=members[path])
        )
        for path, leaf in shapes.items()
    }
    return nested(arrays)


def _part(index: tuple[slice, ...], leaf: jax.ShapeDtypeStruct, members: list[tuple[Slot, Tensor]]) -> np.ndarray:
    """Returns the part `index` of one of our parameters, put together from the released tensors that lie in it."""
    part = np.empty([len(range(*s.indices(n))) for s, n in zip(index, leaf.shape, strict=True)], leaf.dtype)
    for slot, tensor in members:
        entries = [*slot.index, *[slice(None)] * (len(leaf.shape) - len(slot.index))]
        inside = tuple(s for s, entry in zip(index, entries, strict=True) if entry == slice(None))
        shape = tuple(n for n, entry in zip(leaf.shape, entries, strict=True) if entry == slice(None))
        part[slot.index] = _read(tensor, slot.path[-1] == "kernel", shape, inside)
    return part


def _read(tensor: Tensor, is_kernel: bool, shape: tuple[int, ...], index: tuple[slice, ...]) -> np.ndarray:
    """Returns the part `index` of a tensor turned to our layout, of `shape`."""
    if is_kernel and len(shape) == 4:
        return tensor[...].transpose(2, 3, 1, 0)[index]  # (O, I, H, W) -> (H, W, I, O)
    if is_kernel:
        rows, *others = index  # what is cut along our first axis, the inputs, is read in part
        return tensor[:, rows].T.reshape(-1, *shape[1:])[(slice(None), *others)]
    return tensor[...].reshape(shape)[index]


def export_tensors(params: Any, slots: Mapping[str, Slot]) -> dict[str, np.ndarray]:
    """Returns our parameters under the released keys, in the released layout; undoes `load_params` bit for bit."""
    arrays = dict(leaves(params))
    tensors = {}
    for key, slot in slots.items():
        ours = np.asarray(arrays[slot.path])[slot.index]
        shape = released_shape(slot, arrays[slot.path].shape)
        if slot.path[-1] == "kernel":
            ours = ours.transpose(3, 2, 0, 1) if ours.ndim == 4 else ours.reshape(shape[::-1]).T
        tensors[key] = np.ascontiguousarray(ours.reshape(shape))
    return tensors


def released_shape(slot: Slot, leaf_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the released tensor's shape for a slot of a parameter of `leaf_shape`.

    Kernels (inputs, ...) become (outputs, inputs), those of convolutions (O, I, H, W); an embedding table keeps its
    shape and all else is flat.
    """
    shape = np.broadcast_to(0, leaf_shape)[slot.index].shape
    if slot.path[-1] == "kernel" and len(shape) == 4:
        return (shape[3], shape[2], shape[0], shape[1])
    if slot.path[-1] == "kernel":
        return (int(np.prod(shape[1:])), shape[0])
    return shape if slot.path[-1] == "embedding" else (int(np.prod(shape)),)


def leaves(params: Mapping[Any, Any], path: ParamPath = ()) -> Iterator[tuple[ParamPath, Any]]:
    """Yields (path, leaf) of nested dicts."""
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name), value


def nested(arrays: Mapping[ParamPath, Any]) -> dict[Any, Any]:
    """Undoes `leaves`."""
    tree: dict[Any, Any] = {}
    for path, value in arrays.items():
        inner = tree
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        inner[path[-1]] = value
    return tree
