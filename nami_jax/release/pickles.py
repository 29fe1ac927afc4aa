"""PyTorch's pickled weights of a release. torch itself opens them here, with `weights_only`, tensor by tensor.

`nami_jax.weights.torch_files` reads small ones whole, without torch. A pickle is a program. `weights_only` runs none of
it beyond what builds tensors: anything else in the file is refused. torch is imported when the first such file is
met, and is needed for nothing else.
"""
# pyright: reportMissingImports=false

import functools
import importlib
import pickle
import re
import struct
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nami_jax.weights import Tensor, WeightsError, tensor_bytes
from nami_jax.weights.tensors import DTYPE_NAMES

# Before it, a file could corrupt memory in spite of `weights_only` (CVE-2026-24747; before 2.6 it could even run code,
# CVE-2025-32434).
SAFE_VERSION = (2, 10)
ZIP_START = b"PK\x03\x04"
# What torch and pickle raise for damaged files, as tried.
DAMAGED = (RuntimeError, EOFError, OSError, LookupError, ValueError, TypeError, AttributeError, struct.error)


class PickledTensor(NamedTuple):
    """A tensor in a pickle; `tensor[index]` reads a part. One file is open at a time, mapped rather than read."""

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype
    alias: str | None  # an earlier key with the same memory

    def __getitem__(self, index: Any) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Reads a part; `index` is slices or `...`."""
        return _to_numpy(_load(self.file)[self.key])[index]


def open_pickle(path: Path) -> dict[str, PickledTensor]:
    """Lists the tensors of a file that `torch.save` wrote.

    Raises:
        WeightsError: it contains anything but tensors by name, is damaged, or is malicious.
        ModuleNotFoundError: torch is not installed, or too old to be safe.
    """
    places: dict[tuple, str] = {}
    tensors = {}
    for key, tensor in _load(path).items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        first = places.setdefault(place, key) if tensor.numel() else key
        dtype = np.dtype(str(tensor.dtype).removeprefix("torch."))
        tensors[key] = PickledTensor(path, key, tuple(tensor.shape), dtype, None if first == key else first)
    return tensors


@functools.lru_cache(maxsize=1)
def _load(path: Path) -> dict[str, Any]:
    torch = import_torch()
    with path.open("rb") as file:
        mapped = file.read(len(ZIP_START)) == ZIP_START  # files of torch before 1.6 are read whole
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of unusual formats, which the errors below describe
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        names = re.findall(r"GLOBAL ([\w.]+)", str(error))
        what = f"it asks to run {names[0]}" if names else "it is not a file of tensors"
        raise WeightsError(
            f"{path} was refused, and nothing in it was run: {what}. Weights contain only tensors. "
            "Fetch the file again from a source you trust."
        ) from error
    except DAMAGED as error:
        reason = (str(error).splitlines() or [""])[0].partition(". ")[0].rstrip(".")
        raise WeightsError(f"{path} is damaged or was not written by torch.save: {reason}. Fetch it again.") from error
    if not isinstance(loaded, Mapping) or not all(_is_plain(key, value) for key, value in loaded.items()):
        raise WeightsError(f"{path} contains {_outline(loaded)}: expected tensors by name. Save that part by itself.")
    return {key: tensor.detach() for key, tensor in loaded.items()}


def _is_plain(key: Any, value: Any) -> bool:
    torch = import_torch()
    dense = isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_quantized
    return isinstance(key, str) and dense and str(value.dtype).removeprefix("torch.") in {d.name for d in DTYPE_NAMES}


def _outline(value: Any) -> str:
    if not isinstance(value, Mapping):
        return f"one {type(value).__name__}"
    unfit = [(key, entry) for key, entry in value.items() if not _is_plain(key, entry)]
    named = [f"{key!r}: {getattr(entry, 'dtype', type(entry).__name__)}" for key, entry in unfit[:5]]
    return "{" + ", ".join(named) + (", ..." if len(unfit) > 5 or len(unfit) < len(value) else "") + "}"


def _to_numpy(tensor: Any) -> np.ndarray:
    torch = import_torch()
    tensor = tensor.contiguous()
    if tensor.dtype == torch.bfloat16:  # which torch does not hand to NumPy
        return tensor.view(torch.int16).numpy().view(np.dtype("bfloat16"))
    return tensor.numpy()


def save_pickle(
    tensors: Mapping[str, Tensor], path: Path, aliases: Mapping[str, str], progress: Callable[[int], object]
) -> None:
    """Writes tensors as `torch.save` does. Holds all of them in memory.

    Args:
        tensors: key -> tensor.
        path: of the file, replaced if it exists.
        aliases: key -> key in `tensors` that it is a second name of.
        progress: called with the bytes of each tensor once it is read.

    Raises:
        OSError: the file cannot be written.
    """
    torch = import_torch()
    loaded = {}
    for key, tensor in tensors.items():
        array = np.array(tensor[...])  # a copy of its own: torch wants memory that may be written
        bits = array.view(np.int16) if array.dtype == np.dtype("bfloat16") else array
        loaded[key] = torch.from_numpy(bits)
        loaded[key] = loaded[key] if bits is array else loaded[key].view(torch.bfloat16)
        progress(tensor_bytes(tensor))
    try:
        torch.save(loaded | {key: loaded[other] for key, other in aliases.items()}, path)
    except RuntimeError as error:  # what torch makes of a full disk, with a text that does not say so
        raise OSError(f"{path} could not be written: the disk is full or not writable") from error


def import_torch() -> Any:
    """Returns torch.

    Raises:
        ModuleNotFoundError: it is not installed, or older than `SAFE_VERSION`.
    """
    wanted = ".".join(map(str, SAFE_VERSION))
    remedy = f"Install it with `pip install 'torch>={wanted}'` (a CPU build is enough)"
    try:
        torch = importlib.import_module("torch")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f".bin files are PyTorch pickles, and torch is not installed. {remedy}, or use safetensors files."
        ) from error
    version = tuple(map(int, re.findall(r"\d+", torch.__version__)[:2]))
    if version < SAFE_VERSION:
        raise ModuleNotFoundError(f"torch {torch.__version__} does not open pickles safely. {remedy}.")
    return torch
