import json
import os
import stat
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from nami_jax.config import ConfigError
from nami_jax.weights import (
    Slot,
    StoredTensor,
    WeightsError,
    export_tensors,
    load_module,
    load_params,
    open_tensors,
    save_tensors,
    slots_by_name,
    write_tensors,
)

RNG = np.random.default_rng(0)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def random(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return RNG.standard_normal(shape).astype(dtype)


# One parameter of each kind: a stack of queries and keys, a convolution, a table, a vector.
ABSTRACT = {
    "blocks": {
        "qk": {"kernel": jax.ShapeDtypeStruct((2, 16, 2, 4, 3), jnp.float32)},
        "norm": {"scale": jax.ShapeDtypeStruct((2, 16), jnp.float32)},
    },
    "conv": {"kernel": jax.ShapeDtypeStruct((3, 3, 8, 24), jnp.float32)},
    "table": {"embedding": jax.ShapeDtypeStruct((24, 16), jnp.float32)},
    "bias": jax.ShapeDtypeStruct((2, 4, 3), jnp.float32),
}
SLOTS = (
    {
        f"block.{i}.{name}.weight": Slot(("blocks", "qk", "kernel"), (i, slice(None), part))
        for i in range(2)
        for part, name in enumerate(("q", "k"))
    }
    | {f"block.{i}.norm.weight": Slot(("blocks", "norm", "scale"), (i,)) for i in range(2)}
    | {
        "conv.weight": Slot(("conv", "kernel")),
        "table.weight": Slot(("table", "embedding")),
    }
    | {f"{name}.bias": Slot(("bias",), (part,)) for part, name in enumerate(("q", "k"))}
)
TENSORS = (
    {f"block.{i}.{name}.weight": random(12, 16) for i in range(2) for name in ("q", "k")}
    | {f"block.{i}.norm.weight": random(16) for i in range(2)}
    | {"conv.weight": random(24, 8, 3, 3), "table.weight": random(24, 16), "q.bias": random(12), "k.bias": random(12)}
)


class Recorder:
    """A tensor that keeps what it was asked for."""

    def __init__(self, array: np.ndarray):
        self.array, self.shape, self.dtype, self.asked = array, array.shape, array.dtype, []

    def __getitem__(self, index: Any) -> np.ndarray:
        self.asked.append(index)
        return self.array[index]


def with_shardings(specs: dict[tuple[str, ...], PartitionSpec], mesh: Mesh) -> Any:
    def shard(path: Any, leaf: Any) -> Any:
        spec = specs.get(tuple(entry.key for entry in path), PartitionSpec())
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree_util.tree_map_with_path(shard, ABSTRACT)


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "fsdp"))


def test_a_part_is_read_from_disk_as_it_is_sliced_in_memory(tmp_path):
    array = random(6, 10, dtype=BFLOAT16)
    save_file({"a": array}, tmp_path / "a.safetensors")
    stored = open_tensors(tmp_path / "a.safetensors")["a"]
    assert (stored.shape, stored.dtype) == ((6, 10), BFLOAT16)
    for index in (..., slice(1, 3), (slice(None), slice(4, 9)), (slice(2, 5), slice(0, 1))):
        np.testing.assert_array_equal(stored[index], array[index])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64", "int64", "uint8", "bool"])
def test_the_safetensors_library_reads_what_is_written(tmp_path, dtype):
    arrays = {"matrix": random(3, 5).astype(dtype), "scalar": np.array(1, dtype), "none": np.zeros((0, 4), dtype)}
    write_tensors(arrays, tmp_path / "a.safetensors")
    loaded, stored = load_file(tmp_path / "a.safetensors"), open_tensors(tmp_path / "a.safetensors")
    for key, array in arrays.items():
        for found in (loaded[key], stored[key][...]):
            assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_every_tensor_begins_at_a_multiple_of_its_element_size(tmp_path):
    write_tensors({"a": np.ones(3, np.uint8), "b": random(5), "c": random(3, dtype=BFLOAT16)}, tmp_path / "file")
    raw = (tmp_path / "file").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    assert length % 8 == 0
    assert {key: header[key]["data_offsets"][0] for key in "abc"} == {"b": 0, "c": 20, "a": 26}


def test_large_sets_are_cut_into_shards_with_an_index(tmp_path):
    arrays = {f"tensor.{i}": random(i + 1, 25) for i in range(6)}  # 100 to 600 bytes
    written = []
    save_tensors(arrays, tmp_path, "model", shard_bytes=500, progress=written.append)
    sizes = [sum(a.nbytes for a in load_file(file).values()) for file in sorted(tmp_path.glob("*.safetensors"))]
    assert sizes == [300, 300, 400, 500, 600]  # the last tensor is larger than a shard, and has one to itself
    assert sum(written) == sum(sizes)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["weight_map"]["tensor.1"] == "model-00001-of-00005.safetensors"
    assert index["metadata"] == {"total_size": sum(sizes)}
    opened = open_tensors(tmp_path)
    assert all(np.array_equal(opened[key][...], array) for key, array in arrays.items())


def test_what_fits_in_one_shard_has_no_index_and_replaces_what_was_there(tmp_path):
    for _ in range(2):
        save_tensors({"a": random(4)}, tmp_path / "new", "model")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["model.safetensors"]


def test_written_files_have_the_rights_of_any_new_file(tmp_path):
    (tmp_path / "other").touch()
    save_tensors({"a": random(4)}, tmp_path, "model")
    modes = {stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in ("other", "model.safetensors")}
    assert len(modes) == 1


def test_stored_tensors_are_copied_bit_by_bit_in_pieces(tmp_path, monkeypatch):
    array = random(37, 11, dtype=BFLOAT16)
    save_file({"a": array}, tmp_path / "a.safetensors")
    monkeypatch.setattr("nami_jax.weights.tensors.PIECE_ELEMENTS", 50)
    write_tensors(open_tensors(tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    assert load_file(tmp_path / "b.safetensors")["a"].tobytes() == array.tobytes()


def shards(folder: Path) -> Path:
    save_tensors({"a": random(4), "b": random(4)}, folder, "model", shard_bytes=16)
    return folder


def test_a_missing_shard_is_named(tmp_path):
    (shards(tmp_path) / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model-00002-of-00002.safetensors not found. Use a complete release"):
        open_tensors(tmp_path)


def test_two_indices_in_a_folder_are_refused(tmp_path):
    index = shards(tmp_path) / "model.safetensors.index.json"
    index.with_name("model.fp16.safetensors.index.json").write_bytes(index.read_bytes())
    with pytest.raises(WeightsError, match=r"several sets of weights: model.fp16.safetensors.index.json, model.safet"):
        open_tensors(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"\*\.safetensors not found"):
        open_tensors(tmp_path)


@pytest.mark.parametrize("length", [0, 7, 40, -1])
def test_a_file_cut_short_is_called_damaged(tmp_path, length):
    file = tmp_path / "a.safetensors"
    save_file({"a": random(4)}, file)
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(WeightsError, match="is damaged or not a safetensors file"):
        open_tensors(file)


def test_a_key_in_two_files_is_refused(tmp_path):
    for name in ("model", "model.fp16"):
        save_file({"a": random(4)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(WeightsError, match=r"^a is in both .*Keep one of them"):
        open_tensors(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "[" * 100_000,
        '{"weight_map": []}',
        '{"weight_map": {"a": 3}}',
        '{"weight_map": {"a": []}}',
        '{"weight_map": {"a": "../b.safetensors"}}',
        '{"weight_map": {"a": "b\\u0000.safetensors"}}',
        f'{{"weight_map": {{"a": "{"x" * 10_000}"}}}}',
    ],
)
def test_an_index_that_is_damaged_or_leaves_its_folder_is_refused(tmp_path, text):
    (shards(tmp_path) / "model.safetensors.index.json").write_text(text)
    with pytest.raises((ConfigError, WeightsError), match=r"is damaged|must be files in the index's own folder"):
        open_tensors(tmp_path)


def test_every_kind_of_parameter_is_put_together_from_its_tensors():
    params = load_params(ABSTRACT, SLOTS, TENSORS)
    kernel = params["blocks"]["qk"]["kernel"]
    np.testing.assert_array_equal(kernel[1, :, 0], TENSORS["block.1.q.weight"].T.reshape(16, 4, 3))
    np.testing.assert_array_equal(params["blocks"]["norm"]["scale"][0], TENSORS["block.0.norm.weight"])
    np.testing.assert_array_equal(params["conv"]["kernel"], TENSORS["conv.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(params["table"]["embedding"], TENSORS["table.weight"])
    np.testing.assert_array_equal(params["bias"][1], TENSORS["k.bias"].reshape(4, 3))


def test_a_loaded_linear_layer_and_convolution_compute_what_pytorch_defines():
    def make(layer: Any) -> Any:
        return load_module(lambda: layer, slots_by_name, {"weight": weight, "bias": bias})

    bias, x = random(5), random(2, 3, 3, 4)
    weight = random(5, 4)
    linear = make(nnx.Linear(4, 5, rngs=nnx.Rngs(0)))
    np.testing.assert_allclose(linear(x), x @ weight.T + bias, rtol=1e-5, atol=1e-6)
    weight = random(5, 4, 3, 3)
    conv = make(nnx.Conv(4, 5, (3, 3), rngs=nnx.Rngs(0)))
    centre = np.einsum("bhwi,oihw->bo", x, weight) + bias  # at the middle of 3x3 pixels the kernel covers all
    np.testing.assert_allclose(conv(x)[:, 1, 1], centre, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pieces", [2**24, 40])
@pytest.mark.parametrize(
    "specs",
    [
        {},
        {
            ("blocks", "qk", "kernel"): (None, "fsdp"),
            ("table", "embedding"): ("fsdp",),
            ("conv", "kernel"): (None, None, None, "fsdp"),
        },
        {
            ("blocks", "qk", "kernel"): (None, None, None, "fsdp"),
            ("conv", "kernel"): (None, None, ("data", "fsdp")),
            ("table", "embedding"): ("data", "fsdp"),
            ("bias",): (None, "fsdp"),
            ("blocks", "norm", "scale"): ("data",),
        },
        {("blocks", "qk", "kernel"): ("data", "fsdp"), ("table", "embedding"): (None, ("fsdp", "data"))},
    ],
)
def test_sharded_parameters_equal_unsharded_ones(mesh, specs, pieces, monkeypatch):
    monkeypatch.setattr("nami_jax.weights.tensors.PIECE_ELEMENTS", pieces)
    expected = load_params(ABSTRACT, SLOTS, TENSORS)
    abstract = with_shardings({path: PartitionSpec(*spec) for path, spec in specs.items()}, mesh)
    loaded = load_params(abstract, SLOTS, TENSORS)
    assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), loaded, expected))
    assert jax.tree.map(lambda x: x.sharding, loaded) == jax.tree.map(lambda x: x.sharding, abstract)


def test_a_device_reads_its_own_columns_and_copies_read_once(mesh):
    sharded = {("blocks", "qk", "kernel"): PartitionSpec(None, "fsdp"), ("table", "embedding"): PartitionSpec("fsdp")}
    tensors = {key: Recorder(array) for key, array in TENSORS.items()}
    load_params(with_shardings(sharded, mesh), SLOTS, tensors)
    quarters = [slice(i, i + 4) for i in range(0, 16, 4)]  # of 16 inputs; each is held by two devices, and read once
    assert tensors["block.0.q.weight"].asked == [(slice(0, 12), quarter) for quarter in quarters]
    assert [asked[0] for asked in tensors["table.weight"].asked] == [slice(i, i + 6) for i in range(0, 24, 6)]
    assert len(tensors["block.0.norm.weight"].asked) == 1


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("wanted", ["float32", "bfloat16"])
def test_parameters_have_the_type_asked_for_whatever_is_stored(stored, wanted):
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(wanted)), ABSTRACT)
    tensors = {key: array.astype(stored) for key, array in TENSORS.items()}
    loaded = load_params(abstract, SLOTS, tensors)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {jnp.dtype(wanted)}
    np.testing.assert_array_equal(loaded["table"]["embedding"], tensors["table.weight"].astype(wanted))


def test_export_undoes_loading_bit_for_bit():
    exported = export_tensors(load_params(ABSTRACT, SLOTS, TENSORS), SLOTS)
    assert exported.keys() == TENSORS.keys()
    for key, array in TENSORS.items():
        assert (exported[key].shape, exported[key].tobytes()) == (array.shape, array.tobytes())


def test_every_difference_is_listed_at_once():
    tensors = TENSORS | {"left.over": random(2), "conv.weight": random(8, 24, 3, 3)}
    del tensors["q.bias"], tensors["block.1.k.weight"]
    with pytest.raises(WeightsError) as error:
        load_params(ABSTRACT, SLOTS, tensors)
    assert str(error.value).splitlines()[1:] == [
        "  mismatched  conv.weight: (8, 24, 3, 3), the network has (24, 8, 3, 3)",
        "  missing     block.1.k.weight (12, 16)",
        "  missing     q.bias (12,)",
        "  unexpected  left.over (2,)",
    ]


def resident(field: str) -> int:
    """Returns a field of this process's memory, bytes: VmRSS is now, VmHWM the most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's account of memory")
def test_loading_a_stack_takes_hardly_more_memory_than_the_stack(tmp_path):
    """A second copy of the parameter, or all of the file in memory, would make it twice the size."""
    block = random(2**21)
    keys = [f"block.{i}.weight" for i in range(16)]
    save_tensors(dict.fromkeys(keys, block.reshape(2**10, 2**11)), tmp_path, "model", shard_bytes=2**26)
    abstract = {"kernel": jax.ShapeDtypeStruct((16, 2**11, 2**10), jnp.float32)}  # 128 MiB
    slots = {key: Slot(("kernel",), (i,)) for i, key in enumerate(keys)}
    tensors = open_tensors(tmp_path)
    assert all(isinstance(tensor, StoredTensor) for tensor in tensors.values())
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest mark
    before = resident("VmRSS")
    kernel = load_params(abstract, slots, tensors)["kernel"]
    assert kernel.nbytes == 2**27
    assert resident("VmHWM") - before < 1.4 * kernel.nbytes


@pytest.mark.parametrize(
    ("number", "dtype"),
    [(np.nan, "float32"), (np.inf, "bfloat16"), (1e300, "float32"), (1e300, "bfloat16")],
)
def test_numbers_that_are_not_finite_in_the_type_of_the_parameters_are_refused(tmp_path, number, dtype):
    table = np.zeros((4, 3))
    table[2, 1] = number
    save_file({"a.weight": table}, tmp_path / "a.safetensors")
    abstract = {"a": {"embedding": jax.ShapeDtypeStruct((4, 3), dtype)}}
    slots = {"a.weight": Slot(("a", "embedding"))}
    with pytest.raises(WeightsError, match=rf"a\.safetensors: a\.weight has numbers that are NaN, .* for {dtype}"):
        load_params(abstract, slots, open_tensors(tmp_path))
    table[2, 1] = 3.0
    save_file({"a.weight": table}, tmp_path / "a.safetensors")
    assert float(load_params(abstract, slots, open_tensors(tmp_path))["a"]["embedding"][2, 1]) == 3.0
