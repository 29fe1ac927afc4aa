"""Safetensors files, single or sharded: read part by part, written piece by piece, never held whole in memory."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from nami_jax.config import shown
from nami_jax.files.json_files import read_json

TensorShapes = Mapping[str, tuple[int, ...]]
SHARD_BYTES = 2 * 1024**3
LONGEST_NAME = 120  # of a file: no file system takes less than these letters in UTF-8
PIECE_ELEMENTS = 2**24  # read or written at once: 64 MB of float32

# By the names that safetensors gives them.
DTYPES = {
    name: np.dtype(f"{kind}{bits // 8}")
    for name, kind, bits in (
        ("F64", "f", 64),
        ("F32", "f", 32),
        ("F16", "f", 16),
        ("I64", "i", 64),
        ("I32", "i", 32),
        ("I16", "i", 16),
        ("I8", "i", 8),
        ("U64", "u", 64),
        ("U32", "u", 32),
        ("U16", "u", 16),
        ("U8", "u", 8),
    )
} | {"BF16": np.dtype(ml_dtypes.bfloat16), "BOOL": np.dtype(bool)}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class WeightsError(ValueError):
    """Weights that do not fit a network. The message lists every missing, unexpected and mismatched key."""


class Tensor(Protocol):
    """What a loader needs of a tensor: NumPy arrays have it, and `StoredTensor` reads the requested part from disk."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def dtype(self) -> Any: ...  # noqa: D102
    def __getitem__(self, index: Any, /) -> np.ndarray: ...


class StoredTensor(NamedTuple):
    """A tensor in a safetensors file. `tensor[index]` opens the file, reads that part and closes it again.

    So no more of a file stays in memory than what is being read. Opening takes 0.1 ms.
    """

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype

    def __getitem__(self, index: Any) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Reads a part; `index` is slices or `...`."""
        if 0 in self.shape:  # safetensors cannot slice it
            return np.empty(self.shape, self.dtype)[index]
        with safe_open(self.file, "np") as file:
            return file.get_slice(self.key)[index]


def tensor_bytes(tensor: Tensor) -> int:
    """Returns the size of a tensor as it is stored."""
    return int(np.prod(tensor.shape)) * tensor.dtype.itemsize


def tensors_fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Returns a sha256 of every tensor's key, shape and first row, which no two trainings leave alike.

    Reading these takes a moment, where hashing all of mT5-XXL would take minutes.
    """
    digest = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key]
        digest.update(f"{key} {tuple(tensor.shape)}".encode())
        digest.update(np.ascontiguousarray(tensor[:1] if len(tensor.shape) > 1 else tensor[...]).tobytes())
    return digest.hexdigest()


def open_tensors(path: Path) -> dict[str, StoredTensor]:
    """Lists the tensors of a safetensors file, or of all such files in a folder (a release cut into shards).

    Args:
        path: a file, or a folder; if the folder has a `*.safetensors.index.json`, the files it names must be there.

    Raises:
        WeightsError: no such file, a shard is missing or damaged, there are two indices, or two files hold one key.
    """
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    indices = sorted(path.glob("*.safetensors.index.json")) if path.is_dir() else []
    if len(indices) > 1:
        raise WeightsError(f"{path} has several sets of weights: {', '.join(i.name for i in indices)}. Keep one.")
    if indices:
        files = [path / name for name in indexed_files(indices[0])]
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        raise WeightsError(f"{path}: {', '.join(missing) or '*.safetensors'} not found. Use a complete release.")
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for key, tensor in _list_file(file).items():
            if key in tensors:
                raise WeightsError(f"{key} is in both {tensors[key].file} and {file}. Keep one of them.")
            tensors[key] = tensor
    return tensors


def indexed_files(index: Path) -> list[str]:
    """Returns the names of the files that an `*.index.json` lists, sorted.

    Raises:
        ConfigError: it is damaged.
        WeightsError: it is not such a file, or names a file in another folder.
    """
    homes = read_json(index, "Fetch it again").get("weight_map")
    if not isinstance(homes, dict):
        raise WeightsError(f"{index} is damaged: it has no weight_map of files. Fetch it again.")
    for name in homes.values():
        if not (isinstance(name, str) and Path(name).name == name and "\0" not in name and len(name) <= LONGEST_NAME):
            raise WeightsError(
                f"{index} names {shown(name)}: shards must be files in the index's own folder. Fetch it again."
            )
    return sorted(set(homes.values()))


def _list_file(file: Path) -> dict[str, StoredTensor]:
    tensors = {}
    try:
        with safe_open(file, "np") as opened:
            for key in opened.keys():  # noqa: SIM118  (not a mapping)
                part = opened.get_slice(key)
                if part.get_dtype() not in DTYPES:
                    raise WeightsError(f"{file}: {key} is {part.get_dtype()}. Known types: {', '.join(DTYPES)}.")
                tensors[key] = StoredTensor(file, key, tuple(part.get_shape()), DTYPES[part.get_dtype()])
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{file} is damaged or not a safetensors file: {error}. Fetch it again.") from error
    return tensors


def save_tensors(
    tensors: Mapping[str, Tensor],
    folder: Path,
    stem: str,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int], object] = lambda _: None,
) -> None:
    """Writes tensors to `stem.safetensors`, or to several shards and their index where they exceed `shard_bytes`.

    Args:
        tensors: key -> array or `StoredTensor`; of the latter no more than a piece is in memory at a time.
        folder: created if needed.
        stem: e.g. "model" or "diffusion_pytorch_model", as the release names it.
        shard_bytes: largest size of one file; a larger tensor has a file to itself.
        progress: called with the bytes of each piece once it is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[list[str]] = [[]]
    room = shard_bytes
    for key, tensor in tensors.items():
        size = tensor_bytes(tensor)
        if shards[-1] and size > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(key)
        room -= size
    count = len(shards)
    names = [f"{stem}-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    names = [f"{stem}.safetensors"] if count == 1 else names
    for name, keys in zip(names, shards, strict=True):
        write_tensors({key: tensors[key] for key in keys}, folder / name, progress)
    if count > 1:
        files = {key: name for name, keys in zip(names, shards, strict=True) for key in keys}
        write_index(files, tensors, folder / f"{stem}.safetensors.index.json")


def write_index(files: Mapping[str, str], tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes an `*.index.json`: which file holds which key."""
    total = sum(map(tensor_bytes, tensors.values()))
    path.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": dict(files)}, indent=2) + "\n")


def write_tensors(
    tensors: Mapping[str, Tensor], path: Path, progress: Callable[[int], object] = lambda _: None
) -> None:
    """Writes one safetensors file: the header's length (8 bytes), the header (JSON), then the tensors.

    The library's own writer needs all tensors in memory at once; this one holds a piece of one tensor.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    # The widest types first, so that every tensor begins at a multiple of its element size.
    order = sorted(tensors, key=lambda key: -tensors[key].dtype.itemsize)
    for key in order:
        start, end = end, end + tensor_bytes(tensors[key])
        name = DTYPE_NAMES[np.dtype(tensors[key].dtype)]
        header[key] = {"dtype": name, "shape": list(tensors[key].shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for key in order:
            for rows in row_pieces(tensors[key].shape):
                piece = np.ascontiguousarray(tensors[key][rows])
                file.write(piece.reshape(-1).view(np.uint8).data)
                progress(piece.nbytes)


def row_pieces(shape: tuple[int, ...]) -> Iterator[Any]:
    """Yields indices that cut a tensor along its first axis into pieces of about `PIECE_ELEMENTS`."""
    if len(shape) == 0:
        yield ...
        return
    step = max(1, PIECE_ELEMENTS // max(1, int(np.prod(shape[1:]))))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))
