"""The table of slots: where each released tensor is stored in our parameters.

Every network here stores its weights under the key names of its PyTorch release. Reading (`load_params`) and writing
(`export_tensors`) both walk the table.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from nami_jax.weights.tensors import StoredTensor, Tensor, TensorShapes, WeightsError, row_pieces

ParamPath = tuple[Any, ...]
Shardings = Callable[[Any], Any]  # abstract parameters (nested dicts) -> their shardings in the same structure
Members = list[tuple["Slot", Tensor]]  # the tensors that lie in one of our parameters
TILE = 16  # rows turned at once: they and their columns stay in the processor's cache
ALIGNMENT = 64  # bytes


class Slot(NamedTuple):
    """Where one released tensor is stored in our parameters.

    Attributes:
        path: of our parameter.
        index: into that parameter, e.g. the block of a stack and which of queries, keys and values.
    """

    path: ParamPath
    index: tuple[Any, ...] = ()


def differences(expected: TensorShapes, found: TensorShapes, unused: Collection[str] = ()) -> list[str]:
    """Compares shapes key by key.

    Args:
        expected: what the network has.
        found: what the file holds.
        unused: keys that the file may hold and the network does not need.

    Returns:
        A line for each missing, unexpected or mismatched key, sorted.
    """
    lines = [f"missing     {key} {expected[key]}" for key in expected.keys() - found.keys()]
    lines += [f"unexpected  {key} {found[key]}" for key in found.keys() - expected.keys() - set(unused)]
    lines += [
        f"mismatched  {key}: {found[key]}, the network has {expected[key]}"
        for key in expected.keys() & found.keys()
        if tuple(expected[key]) != tuple(found[key])
    ]
    return sorted(lines)


def require_tensors(expected: TensorShapes, found: TensorShapes, unused: Collection[str] = ()) -> None:
    """Raises `WeightsError` with every line of `differences`, if there are any."""
    lines = differences(expected, found, unused)
    if lines:
        listed = "\n  ".join(lines)
        raise WeightsError(f"the weights do not match the network; use both from the same release:\n  {listed}")


RELEASED_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}


def slots_by_name(abstract: Any, names: Mapping[str, str] | None = None) -> dict[str, Slot]:
    """Returns the slots of a network whose parameters correspond one to one to the released tensors.

    Args:
        abstract: our parameters, nested dicts.
        names: our name of a module -> its released name, where they differ. Kernels, scales and embedding tables are
            all released as "weight".
    """
    names = RELEASED_LEAVES | dict(names or {})
    return {".".join(names.get(str(p), str(p)) for p in path): Slot(path) for path in flatten_dict(abstract)}


def expected_shapes(slots: Mapping[str, Slot], abstract: Any) -> dict[str, tuple[int, ...]]:
    """Returns released key -> the shape that the tensor must have for the parameters `abstract` (nested dicts)."""
    parameters: dict[ParamPath, Any] = flatten_dict(abstract)
    return {key: released_shape(slot, parameters[slot.path].shape) for key, slot in slots.items()}


def load_module(
    make: Callable[[], Any],
    slots: Callable[[Any], Mapping[str, Slot]],
    tensors: Mapping[str, Tensor],
    *,
    param_dtype: jax.typing.DTypeLike = jnp.float32,
    shardings: Shardings | None = None,
    unused: Collection[str] = (),
    in_float32: Callable[[ParamPath], bool] = lambda _: False,
) -> Any:
    """Builds a network around released weights, without drawing random ones first.

    Args:
        make: builds the network with any parameters; only its structure is used.
        slots: abstract parameters (nested dicts) -> released key -> slot.
        tensors: released key -> tensor.
        param_dtype: type of the parameters, whatever type they are stored in.
        shardings: abstract parameters -> their shardings in the same structure; None puts all on the first device.
        unused: keys that may be there and are not needed.
        in_float32: which parameters are float32 whatever `param_dtype` is.

    Raises:
        WeightsError: keys are missing, unexpected or of the wrong shape; all are listed.
    """
    graphdef, state = nnx.split(nnx.eval_shape(make))
    shapes: dict[ParamPath, Any] = flatten_dict(nnx.to_pure_dict(state))
    kinds = {path: jnp.float32 if in_float32(path) else param_dtype for path in shapes}
    abstract = unflatten_dict({path: jax.ShapeDtypeStruct(x.shape, kinds[path]) for path, x in shapes.items()})
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

    The host holds one device's part of one parameter at a time, and a piece of one tensor. Where the host is the
    device, the part becomes the array without a copy. `python -m benchmarks.load_memory` measures it.

    Args:
        abstract: our parameters as nested dicts of ShapeDtypeStruct, whose dtype and sharding give each array's type
            and placement; without a sharding it goes to the first device.
        slots: released key -> slot; together they must cover every parameter.
        tensors: released key -> tensor; linear weights are (outputs, inputs), those of convolutions (O, I, H, W).
        unused: keys that may be there and are not needed.

    Returns:
        Nested dicts of arrays.

    Raises:
        WeightsError: keys are missing, unexpected or of the wrong shape, all are listed; or numbers are not finite.
    """
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    require_tensors(expected_shapes(slots, abstract), found, unused)
    shapes: dict[ParamPath, Any] = flatten_dict(abstract)
    members: dict[ParamPath, Members] = {path: [] for path in shapes}
    for key, slot in slots.items():
        members[slot.path].append((slot, tensors[key]))
    default = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    arrays = {path: _load_array(leaf, leaf.sharding or default, members[path]) for path, leaf in shapes.items()}
    return unflatten_dict(arrays)


def _load_array(leaf: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding, members: Members) -> jax.Array:
    """Reads one of our parameters. A part that several devices hold is read once."""
    holders: dict[str, tuple[Any, list[Any]]] = {}
    for device, index in sharding.addressable_devices_indices_map(leaf.shape).items():
        holders.setdefault(repr(index), (index, []))[1].append(device)
    arrays = []
    for index, devices in holders.values():
        part = _read_part(index, leaf, members)
        arrays += [jax.device_put(part, device) for device in devices]
        jax.block_until_ready(arrays)  # else parts on their way to the devices pile up on the host
    return jax.make_array_from_single_device_arrays(leaf.shape, sharding, arrays)


def _read_part(index: tuple[slice, ...], leaf: jax.ShapeDtypeStruct, members: Members) -> np.ndarray:
    """Returns the part `index` of one of our parameters, put together from the released tensors that lie in it."""
    ranges = [range(*s.indices(n)) for s, n in zip(index, leaf.shape, strict=True)]
    part = _aligned([len(r) for r in ranges], leaf.dtype)
    for slot, tensor in members:
        entries = [*slot.index, *[slice(None)] * (len(leaf.shape) - len(slot.index))]
        kept = [i for i, entry in enumerate(entries) if entry == slice(None)]
        if any(entry not in ranges[i] for i, entry in enumerate(entries) if i not in kept):
            continue  # another device holds it
        within = part[tuple(entry if i in kept else ranges[i].index(entry) for i, entry in enumerate(entries))]
        shape, inside = tuple(leaf.shape[i] for i in kept), tuple(index[i] for i in kept)
        target, rows, columns = _turned(within, slot.path[-1], shape, inside)
        assert np.may_share_memory(target, part), f"{slot}: does not leave whole axes behind the indexed ones"
        _copy(target, tensor, rows, columns)
    return part


def _aligned(shape: list[int], dtype: Any) -> np.ndarray:
    """Returns an uninitialised array at an address that lets JAX use it as a CPU device's memory, without a copy."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def _turned(
    part: np.ndarray, kind: str, shape: tuple[int, ...], index: tuple[slice, ...]
) -> tuple[np.ndarray, np.ndarray, tuple[slice, ...]]:
    """Says which part of a released tensor goes where.

    Args:
        part: what is wanted, in our layout.
        kind: the parameter's own name, "kernel", "embedding" or another.
        shape: of the whole in our layout.
        index: of `part` in the whole.

    Returns:
        `part` seen in the released layout, and which rows and columns of the released tensor belong there.
    """
    if kind == "kernel" and len(shape) == 4:  # (H, W, I, O), released as (O, I, H, W)
        return part.transpose(3, 2, 0, 1), _rows(shape[3:], index[3:]), (index[2], *index[:2])
    if kind == "kernel":  # (I, ...), released as (O, I)
        return part.reshape(len(part), -1).T, _rows(shape[1:], index[1:]), index[:1]
    if kind == "embedding":
        return part, _rows(shape[:1], index[:1]), index[1:]
    return part.reshape(-1), _rows(shape, index), ()


def _rows(shape: tuple[int, ...], index: tuple[slice, ...]) -> np.ndarray:
    """Returns the numbers, counted through, of the entries that `index` picks from an array of `shape`."""
    return np.arange(int(np.prod(shape))).reshape(shape)[index].reshape(-1)


def _copy(target: np.ndarray, tensor: Tensor, rows: np.ndarray, columns: tuple[slice, ...]) -> None:
    """Copies `rows` and `columns` of a tensor to `target`, reading piece by piece and casting to its type."""
    for piece in row_pieces(target.shape):
        some = rows[piece]
        block = tensor[(slice(int(some[0]), int(some[-1]) + 1), *columns)]
        block = block if len(block) == len(some) else block[some - some[0]]
        into = target[piece]
        step = TILE if into.ndim == 2 else len(block)
        with np.errstate(over="ignore", invalid="ignore"):  # what is too large becomes infinite, and is refused
            for start in range(0, len(block), step):
                into[start : start + step] = block[start : start + step]
        if not _finite(into):
            name = f"{tensor.file}: {tensor.key}" if isinstance(tensor, StoredTensor) else "a tensor"
            raise WeightsError(
                f"{name} has numbers that are NaN, infinite or too large for {into.dtype}. The weights are damaged or "
                "of a run that diverged: fetch them again, or use those of an earlier checkpoint."
            )


def _finite(array: np.ndarray) -> bool:
    if array.dtype == ml_dtypes.bfloat16:  # whose own test takes ten times as long
        return bool(((array.view(np.uint16) & 0x7F80) != 0x7F80).all())
    return bool(np.isfinite(array).all())


def export_tensors(params: Any, slots: Mapping[str, Slot]) -> dict[str, np.ndarray]:
    """Returns our parameters under the released keys, in the released layout; undoes `load_params` bit for bit."""
    arrays: dict[ParamPath, Any] = flatten_dict(params)
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
