import collections
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nami_jax.weights import WeightsError, save_tensors
from nami_jax.weights.efficientnet_lite_keys import efficientnet_lite0_file
from nami_jax.weights.torch_files import open_weights, read_torch_file


class Global:
    """What a pickle of torch names, written without torch."""

    def __init__(self, module: str, name: str):
        self.name = f"{module}\n{name}"


class Call:
    """A call in a pickle, of a `Global` with arguments."""

    def __init__(self, function: Global, *arguments: Any):
        self.function, self.arguments = function, arguments


PythonPickler: Any = vars(pickle)["_Pickler"]  # the one in C does not let a subclass write opcodes


class Writer(PythonPickler):
    """Writes names that cannot be imported here."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Global):
            self.write(b"c" + obj.name.encode() + b"\n")
        elif isinstance(obj, Call):
            self.save(obj.function)
            self.save(obj.arguments)
            self.write(b"R")
        elif isinstance(obj, tuple) and obj[:1] == ("storage",):
            super().save(tuple(obj), False)
            self.write(b"Q")
        else:
            super().save(obj, save_persistent_id)


def tensor(key: str, count: int, offset: int, shape: tuple, strides: tuple, kind: str = "FloatStorage") -> Call:
    storage = ("storage", Global("torch", kind), key, "cpu", count)
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, storage, offset, shape, strides, False, Call(Global("collections", "OrderedDict")))


def write(path: Path, state: Any, contents: dict[str, bytes]) -> Path:
    """Writes the archive of torch 1.6 and later."""
    stream = io.BytesIO()
    Writer(stream, 2).dump(state)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", stream.getvalue())
        for key, content in contents.items():
            archive.writestr(f"w/data/{key}", content)
    return path


NUMBERS = np.arange(12, dtype=np.float32).tobytes()


def test_tensors_are_cut_from_their_numbers(tmp_path):
    state = {"whole": tensor("0", 12, 0, (3, 4), (4, 1)), "turned": tensor("0", 12, 1, (2, 3), (1, 4))}
    state["one"] = tensor("1", 1, 0, (), (), "LongStorage")
    found = read_torch_file(write(tmp_path / "w.pth", state, {"0": NUMBERS, "1": np.int64(7).tobytes()}))
    np.testing.assert_array_equal(found["whole"], np.arange(12).reshape(3, 4))
    np.testing.assert_array_equal(found["turned"], [[1, 5, 9], [2, 6, 10]])
    assert found["one"] == 7
    assert found["one"].dtype == np.int64


def test_older_stream_of_a_package_is_read():
    tensors = read_torch_file(efficientnet_lite0_file())
    assert len(tensors) == 296
    assert tensors["_fc.weight"].shape == (1000, 1280)
    assert 0.5 < tensors["_bn0.running_var"].mean() < 50


def test_a_program_is_refused_and_not_run(tmp_path):
    trap = tmp_path / "run"
    state = {"w": Call(Global("os", "mkdir"), str(trap))}
    with pytest.raises(WeightsError, match=r"asks for os\.mkdir, and weights contain only tensors\. Nothing in it was"):
        read_torch_file(write(tmp_path / "w.pth", state, {}))
    stream = io.BytesIO()
    Writer(stream, 2).dump(state)
    (tmp_path / "old.pth").write_bytes(stream.getvalue())
    with pytest.raises(WeightsError, match=r"asks for os\.mkdir"):
        read_torch_file(tmp_path / "old.pth")
    assert not trap.exists()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"w": tensor("0", 12, 0, (4, 4), (4, 1))}, "w reaches beyond its numbers"),
        ({"w": tensor("0", 12, -1, (2,), (1,))}, "w is described in a way that is not known"),
        ({"w": tensor("0", 12, 0, (2,), (-1,))}, "w is described in a way that is not known"),
        ({"w": tensor("0", 13, 0, (2,), (1,))}, "w is cut off"),
        ({"w": tensor("0", 12, 0, (2,), (1,), "ComplexFloatStorage")}, r"asks for torch\.ComplexFloatStorage"),
        ({"w": 3}, "something else than tensors by name"),
        ([tensor("0", 12, 0, (2,), (1,))], "something else than tensors by name"),
        ({"state_dict": {"w": tensor("0", 12, 0, (2,), (1,))}}, "save its state_dict by itself"),
        ({"w": tensor("9", 12, 0, (2,), (1,))}, r"data/9"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path, state, message):
    with pytest.raises(WeightsError, match=rf"w\.pth cannot be read as tensors that torch\.save wrote: .*{message}"):
        read_torch_file(write(tmp_path / "w.pth", state, {"0": NUMBERS}))


@pytest.mark.parametrize("kept", [0, 1, 20, 300, 50_000, 18_000_000])
def test_a_file_that_is_cut_off_is_said_to_be_damaged(tmp_path, kept):
    (tmp_path / "w.pth").write_bytes(efficientnet_lite0_file().read_bytes()[:kept])
    with pytest.raises(WeightsError, match=r"w\.pth cannot be read as tensors that torch\.save wrote"):
        read_torch_file(tmp_path / "w.pth")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(WeightsError, match=r"none\.pth cannot be read .*No such file"):
        read_torch_file(tmp_path / "none.pth")
    os.mkdir(tmp_path / "folder.pth")
    with pytest.raises(WeightsError, match=r"folder\.pth cannot be read .*Is a directory"):
        read_torch_file(tmp_path / "folder.pth")


def test_the_ending_says_how_a_file_is_read(tmp_path):
    save_tensors({"w": np.ones(3, np.float32)}, tmp_path, "model")
    state = collections.OrderedDict(w=tensor("0", 12, 0, (12,), (1,)))
    write(tmp_path / "w.pt", dict(state), {"0": NUMBERS})
    assert open_weights(tmp_path / "model.safetensors")["w"].shape == (3,)
    assert open_weights(tmp_path / "w.pt")["w"].shape == (12,)
