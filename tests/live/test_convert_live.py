"""Converts releases whose weights are pickles, and refuses those that are something else."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nami_jax.release import pickles
from nami_jax.release.conversion import convert_release
from nami_jax.release.exporting import export_network, export_release
from nami_jax.release.pickles import open_pickle
from nami_jax.weights import WeightsError, open_tensors
from nami_jax.weights.nami_keys import model_config
from tests.support.paths import ROOT
from tests.support.releases import TRANSFORMER, release_tensors, write_side_files

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")

Arrays = Mapping[str, np.ndarray]
FILES = {
    "transformer": "transformer/pytorch_model_fsdp.bin",
    "bridge_flow": "bridge_flow.bin",
    "vae": "vae/diffusion_pytorch_model.bin",
    "mclip": "mclip/pytorch_model.bin",
}


def to_torch(arrays: Arrays) -> dict[str, Any]:
    return {
        key: torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        if array.dtype == np.dtype("bfloat16") else torch.from_numpy(array)
        for key, array in arrays.items()
    }  # fmt: skip


def to_bits(tensors: Mapping[str, Any]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Returns (type, shape, bytes) of each tensor, of whatever library."""
    return {
        key: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), bytes(
            tensor.contiguous().reshape(-1).view(torch.uint8).numpy() if isinstance(tensor, torch.Tensor)
            else np.ascontiguousarray(tensor[...]).reshape(-1).view(np.uint8)))
        for key, tensor in tensors.items()
    }  # fmt: skip


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True, map_location="cpu")


@pytest.fixture(scope="module")
def arrays() -> dict[str, dict[str, np.ndarray]]:
    return release_tensors()


@pytest.fixture(scope="module")
def release(tmp_path_factory, arrays) -> Path:
    """A release of pickles: mT5 in two shards, its embedding under two names; the transformer in torch's old form."""
    folder = tmp_path_factory.mktemp("release")
    write_side_files(folder)
    for name, file in FILES.items():
        torch.save(to_torch(arrays[name]), folder / file, _use_new_zipfile_serialization=name != "transformer")
    mt5 = to_torch(arrays["mt5"])
    shards = [{"shared.weight": mt5["shared.weight"], "encoder.embed_tokens.weight": mt5["shared.weight"]},
              {key: tensor for key, tensor in mt5.items() if key != "shared.weight"}]  # fmt: skip
    homes = {}
    for i, shard in enumerate(shards, 1):
        torch.save(shard, folder / "mt5" / f"pytorch_model-0000{i}-of-00002.bin")
        homes |= dict.fromkeys(shard, f"pytorch_model-0000{i}-of-00002.bin")
    (folder / "mt5" / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": homes}))
    return folder


@pytest.fixture(scope="module")
def ours(tmp_path_factory, release) -> Path:
    folder = tmp_path_factory.mktemp("converted") / "ours"
    convert_release(release, folder)
    return folder


def test_pickles_become_safetensors_bit_for_bit(ours, arrays):
    for name, part in arrays.items():
        assert to_bits(open_tensors(ours / name)) == to_bits(part)


def test_export_gives_back_every_pickle_bit_for_bit(release, ours, tmp_path):
    export_release(ours, tmp_path / "back")
    names = {file.relative_to(release) for file in release.rglob("*") if file.is_file()}
    exported = {file.relative_to(tmp_path / "back") for file in (tmp_path / "back").rglob("*") if file.is_file()}
    assert exported == names | {Path("model_index.json")}
    for name in sorted(names):
        if name.suffix == ".bin":
            found, expected = load(tmp_path / "back" / name), load(release / name)
            assert to_bits(found) == to_bits(expected)
    shard = load(tmp_path / "back" / "mt5" / "pytorch_model-00001-of-00002.bin")
    assert shard["shared.weight"].data_ptr() == shard["encoder.embed_tokens.weight"].data_ptr()
    homes = json.loads((tmp_path / "back" / "mt5" / "pytorch_model.bin.index.json").read_text())["weight_map"]
    assert homes == json.loads((release / "mt5" / "pytorch_model.bin.index.json").read_text())["weight_map"]


def test_a_network_in_memory_is_exported_as_the_released_pickles(arrays, tmp_path):
    parts = {name: arrays[name] for name in ("transformer", "bridge_flow")}
    export_network(tmp_path / "out", parts, model_config(TRANSFORMER))
    for name in ("transformer", "bridge_flow"):
        assert to_bits(load(tmp_path / "out" / FILES[name])) == to_bits(arrays[name])


def test_transformers_own_t5_is_converted_without_its_decoder(release, tmp_path):
    changed = shutil.copytree(release, tmp_path / "changed")
    for file in (changed / "mt5").glob("pytorch_model*"):
        file.unlink()
    config = transformers.MT5Config(
        **json.loads((changed / "mt5" / "config.json").read_text()), tie_word_embeddings=False
    )
    whole = transformers.MT5ForConditionalGeneration(config)
    torch.save(whole.state_dict(), changed / "mt5" / "pytorch_model.bin")
    converted = convert_release(changed, tmp_path / "ours")
    encoder = {
        k: v for k, v in whole.state_dict().items() if k.startswith(("shared.", "encoder.block", "encoder.final"))
    }
    assert to_bits(open_tensors(tmp_path / "ours" / "mt5")) == to_bits(encoder)
    assert converted.left_out["mt5"] > 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int64", "bool"])
def test_every_type_and_form_of_tensor_is_read(tmp_path, dtype):
    base = torch.arange(24).reshape(4, 6).to(getattr(torch, dtype))
    tensors = {"plain": base.clone(), "turned": base.T, "part": base[1:3, ::2], "scalar": base[1, 1], "none": base[:0],
               "parameter": torch.nn.Parameter(base.clone(), requires_grad=False)}  # fmt: skip
    torch.save(tensors, tmp_path / "a.bin")
    assert to_bits(open_pickle(tmp_path / "a.bin")) == to_bits(tensors)


class Hostile:
    """Asks whoever unpickles it to run a command."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.file}",)


def write_hostile(form: str, path: Path, proof: Path) -> None:
    content = {"scale": torch.zeros(2), "shift.0": Hostile(proof)}
    if form == "pickle":
        path.write_bytes(pickle.dumps({"shift.0": Hostile(proof)}, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_hostile_pickle_is_refused_and_does_not_run(release, tmp_path, form):
    changed = shutil.copytree(release, tmp_path / "changed")
    proof = tmp_path / "it_ran"
    write_hostile(form, changed / "bridge_flow.bin", proof)
    with pytest.raises(
        WeightsError, match=r"bridge_flow.bin was refused, and nothing in it was run: it asks to run posix"
    ):
        convert_release(changed, tmp_path / "ours")
    assert not proof.exists()
    assert not (tmp_path / "ours").exists()
    # The file is armed: opened carelessly, it runs.
    (pickle.loads((changed / "bridge_flow.bin").read_bytes()) if form == "pickle"
     else torch.load(changed / "bridge_flow.bin", weights_only=False))  # fmt: skip
    assert proof.exists()


def test_the_command_refuses_a_hostile_pickle_with_a_plain_message(release, tmp_path):
    changed = shutil.copytree(release, tmp_path / "changed")
    write_hostile("zip", changed / "vae" / "diffusion_pytorch_model.bin", tmp_path / "it_ran")
    command = [sys.executable, "-m", "nami_jax.convert", f"--from={changed}", f"--to={tmp_path / 'ours'}"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith("error: ")
    assert "weights_only=False" not in run.stderr  # torch's own advice would open the door
    assert not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_pickle_cut_short_is_called_damaged(release, tmp_path, share, zipped):
    torch.save(load(release / "bridge_flow.bin"), tmp_path / "a.bin", _use_new_zipfile_serialization=zipped)
    raw = (tmp_path / "a.bin").read_bytes()
    (tmp_path / "a.bin").write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(WeightsError, match=r"a.bin (is damaged|was refused)"):
        open_pickle(tmp_path / "a.bin")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"state_dict": {"a": torch.zeros(1)}, "step": 3},
            r"contains {'state_dict': dict, 'step': int}: expected tensors",
        ),
        ({"a": torch.zeros(2), 3: torch.zeros(2)}, r"contains {3: torch.float32, ...}: expected"),
        ({"a": torch.zeros(2).to_sparse()}, r"contains {'a': torch.float32}: expected"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, r"contains {'a': torch.complex64}: expected"),
        ([torch.zeros(2)], r"contains one list: expected tensors by name"),
    ],
)
def test_what_holds_no_tensors_by_name_is_described(tmp_path, content, message):
    torch.save(content, tmp_path / "a.bin")
    with pytest.raises(WeightsError, match=message):
        open_pickle(tmp_path / "a.bin")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_program_archive_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "a.bin")
    with pytest.raises(WeightsError, match=r"a.bin is damaged or was not written by torch.save"):
        open_pickle(tmp_path / "a.bin")


def test_a_torch_that_opens_pickles_unsafely_is_refused(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(ModuleNotFoundError, match=r"torch 2.9.1\+cpu does not open pickles safely. .*torch>=2.10"):
        pickles.import_torch()


def test_a_pickle_that_a_full_disk_cuts_short_is_named():
    with pytest.raises(OSError, match=r"/dev/full could not be written: the disk is full"):
        pickles.save_pickle({"a": np.ones(100_000, np.float32)}, Path("/dev/full"), {}, lambda _: None)


def test_one_shard_is_open_at_a_time(release):
    for file in sorted((release / "mt5").glob("*.bin")):
        open_pickle(file)
    assert pickles._load.cache_info().currsize == 1
