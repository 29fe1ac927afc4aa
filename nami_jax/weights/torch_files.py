"""Weights that `torch.save` wrote, read without torch: tensors by name, and nothing else.

Such a file is a pickle, which is a program. The reader here lets it name what builds dicts and tensors; at anything
else it stops, before that is run. Both layouts are read: the archive of torch 1.6 and later, and the older stream.
"""

import collections
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np

from nami_jax.weights.tensors import StoredTensor, WeightsError, open_tensors

SUFFIXES = (".pth", ".pt", ".bin")
STREAM_START = (0x1950A86A20F9469CFC6C, 1001)  # what the older layout begins with: a number, and its version
STORAGES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype(bool),
}
# What damaged files make of pickle, zipfile and struct, as tried.
DAMAGED = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    EOFError,
    OSError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
    NotImplementedError,
    struct.error,
)


class _Storage(NamedTuple):
    """A run of numbers in the file, which one or several tensors are cut from."""

    key: str
    dtype: np.dtype
    count: int


class _Cut(NamedTuple):
    """A tensor as the pickle describes it."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements


def open_weights(path: Path) -> dict[str, StoredTensor] | dict[str, np.ndarray]:
    """Opens weights as safetensors or as a file of `torch.save`, by the name's ending.

    Args:
        path: a `.pth`, `.pt` or `.bin` file, a safetensors file, or a folder of these latter.

    Raises:
        WeightsError: as `open_tensors` and `read_torch_file` do.
    """
    return read_torch_file(path) if path.suffix in SUFFIXES else open_tensors(path)


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a file that `torch.save` wrote, all into memory.

    Raises:
        WeightsError: it is missing or damaged, or holds anything but tensors by name. Nothing in it is run.
    """
    try:
        if zipfile.is_zipfile(path):
            return _read_archive(path)
        with path.open("rb") as file:
            return _read_stream(file)
    except DAMAGED as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise WeightsError(
            f"{path} cannot be read as tensors that torch.save wrote: {reason}. Nothing in it was run. Fetch it again "
            "from a source you trust, or use a safetensors file."
        ) from error


def _read_archive(path: Path) -> dict[str, np.ndarray]:
    """Reads the layout of torch 1.6 and later: a zip with `NAME/data.pkl` and each storage as `NAME/data/KEY`."""
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("the archive has no data.pkl, or several")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("its numbers are big-endian")
        with archive.open(pickles[0]) as file:
            cuts = _cuts(_Unpickler(file).load())
        keys = {cut.storage.key for cut in cuts.values()}
        return _tensors(cuts, {key: archive.read(f"{root}data/{key}") for key in sorted(keys)})


def _read_stream(file: IO[bytes]) -> dict[str, np.ndarray]:
    """Reads the older layout: five pickles (start, version, machine, tensors, keys), then each storage."""
    start, version, machine = (_Unpickler(file).load() for _ in range(3))
    if (start, version) != STREAM_START or machine.get("little_endian") is not True:
        raise ValueError("it does not begin as such files do")
    cuts = _cuts(_Unpickler(file).load())
    storages = {cut.storage.key: cut.storage for cut in cuts.values()}
    contents = {}
    for key in _Unpickler(file).load():
        (count,) = struct.unpack("<q", file.read(8))
        if key not in storages or count != storages[key].count:
            raise ValueError(f"it holds {count} numbers as {key}, which no tensor describes so")
        contents[key] = file.read(count * storages[key].dtype.itemsize)
    return _tensors(cuts, contents)


class _Unpickler(pickle.Unpickler):
    """Builds dicts and descriptions of tensors, and refuses every other name before it is looked up."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): lambda storage, offset, shape, strides, *_: _Cut(
                storage, offset, shape, strides
            ),
            ("torch._utils", "_rebuild_parameter"): lambda cut, *_: cut,
        }
        if module_name == "torch" and global_name in STORAGES:
            return global_name
        if (module_name, global_name) not in known:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}, and weights contain only tensors")
        return known[module_name, global_name]

    def persistent_load(self, pid: Any, /) -> _Storage:
        _, kind, key, _, count, *view = pid
        if view not in ([], [None]) or type(key) is not str or type(count) is not int:
            raise pickle.UnpicklingError("it describes a tensor in a way that is not known")
        return _Storage(key, STORAGES[kind], count)


def _cuts(loaded: Any) -> dict[str, _Cut]:
    """Checks that a pickle holds tensors by name, each within its storage."""
    if not isinstance(loaded, dict) or not all(type(k) is str and type(v) is _Cut for k, v in loaded.items()):
        raise ValueError("it holds something else than tensors by name; save its state_dict by itself")
    for name, (storage, offset, shape, strides) in loaded.items():
        numbers = (offset, *shape, *strides)
        if type(storage) is not _Storage or any(type(n) is not int or n < 0 for n in numbers):
            raise ValueError(f"{name} is described in a way that is not known")
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if 0 not in shape and last >= storage.count:
            raise ValueError(f"{name} reaches beyond its numbers")
    return loaded


def _tensors(cuts: dict[str, _Cut], contents: dict[str, bytes]) -> dict[str, np.ndarray]:
    tensors = {}
    for name, (storage, offset, shape, strides) in cuts.items():
        content = contents[storage.key]
        if len(content) != storage.count * storage.dtype.itemsize:
            raise ValueError(f"{name} is cut off")
        numbers = np.frombuffer(content, storage.dtype)[offset:]
        steps = [step * storage.dtype.itemsize for step in strides]
        tensors[name] = np.lib.stride_tricks.as_strided(numbers, shape, steps, writeable=False)
    return tensors
