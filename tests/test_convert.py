import ast
import fcntl
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nami_jax.autoencoder.codec import Autoencoder
from nami_jax.config import AutoencoderConfig, BridgeConfig, ConfigError, PipelineConfig, TextConfig
from nami_jax.release.conversion import convert_release
from nami_jax.release.exporting import export_network, export_release
from nami_jax.release.folders import new_folder
from nami_jax.release.released_parts import common_prefix
from nami_jax.weights import WeightsError, open_tensors
from nami_jax.weights.bert_keys import load_bert, read_bert_config
from nami_jax.weights.nami_keys import export_bridge, export_nami, load_bridge, load_nami, model_config
from nami_jax.weights.t5_keys import load_t5, read_t5_config
from tests.support.paths import ROOT
from tests.support.releases import CONFIGS, TRANSFORMER, release_tensors, write_release

Tensors = dict[str, dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    return release_tensors()


@pytest.fixture(scope="module")
def release(tmp_path_factory, tensors) -> Path:
    return write_release(tmp_path_factory.mktemp("release"), tensors)


@pytest.fixture(scope="module")
def ours(tmp_path_factory, release) -> Path:
    folder = tmp_path_factory.mktemp("converted") / "ours"
    convert_release(release, folder)
    return folder


@pytest.fixture
def changed(tmp_path, release) -> Path:
    """A copy of the release, for a test to change."""
    return shutil.copytree(release, tmp_path / "changed")


def files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def assert_same_bits(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        bits = (found[key].dtype, found[key].shape, found[key].tobytes())
        assert bits == (tensor.dtype, tensor.shape, tensor.tobytes()), key


def replace(file: Path, changes: Mapping[str, np.ndarray | None]) -> None:
    """Sets tensors of a safetensors file, or deletes those that are None."""
    tensors = {**load_file(file), **changes}
    save_file({key: tensor for key, tensor in tensors.items() if tensor is not None}, file)


def test_conversion_keeps_every_tensor_bit_for_bit(ours, tensors):
    for name, part in tensors.items():
        assert_same_bits({key: stored[...] for key, stored in open_tensors(ours / name).items()}, part)


def test_conversion_copies_configurations_and_tokenisers(release, ours):
    for name in (
        "transformer/config.json",
        "mt5/config.json",
        "mt5/spiece.model",
        "mclip/vocab.txt",
        "mclip/tokenizer_config.json",
    ):
        assert (ours / name).read_bytes() == (release / name).read_bytes()


def test_every_network_loads_from_the_converted_folder(ours, tensors):
    nami = load_nami(model_config(TRANSFORMER), open_tensors(ours / "transformer"))
    assert_same_bits(export_nami(nami), tensors["transformer"])
    assert_same_bits(export_bridge(load_bridge(open_tensors(ours / "bridge_flow"))), tensors["bridge_flow"])
    load_t5(read_t5_config(CONFIGS["mt5"]), open_tensors(ours / "mt5"))
    load_bert(read_bert_config(CONFIGS["mclip"]), open_tensors(ours / "mclip"))
    assert Autoencoder.from_folder(ours / "vae").downscale == 8


def test_settings_to_sample_with_follow_the_release(ours):
    settings = PipelineConfig.from_dict(json.loads((ours / "pipeline.json").read_text()))
    assert settings.model.width == 32
    assert (settings.model.dtype, settings.model.scan_blocks) == ("bfloat16", True)
    assert settings.text == TextConfig("t5_bert", 256, mask_padding=False, folder=".", pooled_length=77)
    assert (settings.sample.steps, settings.sample.grid, settings.sample.transition) == (
        (10, 10, 10),
        "released",
        "bridge",
    )
    assert settings.side == 16 * 8  # of the bridge's last shift
    assert settings.autoencoder == AutoencoderConfig("vae", 8)
    assert settings.bridge == BridgeConfig("full")


def test_a_release_without_bridge_renoises(changed, tmp_path):
    (changed / "bridge_flow.safetensors").unlink()
    assert convert_release(changed, tmp_path / "ours").absent == []
    settings = PipelineConfig.from_dict(json.loads((tmp_path / "ours" / "pipeline.json").read_text()))
    assert (settings.sample.transition, settings.bridge.kind, settings.side) == ("renoise", None, 1024)


def test_export_gives_back_the_release_file_by_file(release, ours, tmp_path):
    export_release(ours, tmp_path / "back")
    found, expected = files(tmp_path / "back"), files(release)
    index = json.loads(found.pop("model_index.json").read_text())
    assert index["mt5"] == ["transformers", "MT5EncoderModel"]
    assert found.keys() == expected.keys()
    for name, path in expected.items():
        if path.suffix == ".safetensors":
            assert_same_bits(load_file(found[name]), load_file(path))
        elif name.endswith("index.json"):
            homes, others = (json.loads(p.read_text())["weight_map"] for p in (found[name], path))
            assert homes == others
        else:
            assert found[name].read_bytes() == path.read_bytes(), name


def test_export_as_safetensors_uses_the_usual_names_and_converts_again(ours, tensors, tmp_path):
    (tmp_path / "copy").mkdir()
    shutil.copytree(ours, tmp_path / "copy", dirs_exist_ok=True)
    (tmp_path / "copy" / "release.json").unlink()  # a folder that came from elsewhere
    export_release(tmp_path / "copy", tmp_path / "back", as_safetensors=True)
    weights = {name for name in files(tmp_path / "back") if name.endswith(".safetensors")}
    assert weights == {
        "transformer/diffusion_pytorch_model.safetensors",
        "bridge_flow.safetensors",
        "mt5/model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "mclip/model.safetensors",
    }
    convert_release(tmp_path / "back", tmp_path / "again")
    assert_same_bits({k: t[...] for k, t in open_tensors(tmp_path / "again" / "mt5").items()}, tensors["mt5"])


def test_a_network_in_memory_is_exported_as_a_release(tensors, tmp_path):
    cfg = model_config(TRANSFORMER)
    parts = {name: tensors[name] for name in ("transformer", "bridge_flow")}
    export_network(tmp_path / "out", parts, cfg, as_safetensors=True)
    converted = convert_release(tmp_path / "out", tmp_path / "ours", allow_missing=True)
    assert converted.absent == ["vae/", "mt5/", "mclip/"]
    assert_same_bits(
        {k: t[...] for k, t in open_tensors(tmp_path / "ours" / "bridge_flow").items()}, tensors["bridge_flow"]
    )


def test_every_mismatch_of_every_part_is_listed_and_nothing_written(changed, tmp_path):
    replace(
        changed / "transformer" / "diffusion_pytorch_model.safetensors",
        {"x_embedder.bias": None, "left.over": np.zeros(2, np.float32)},
    )
    replace(changed / "bridge_flow.safetensors", {"shift.1": None})
    replace(changed / "vae" / "diffusion_pytorch_model.safetensors", {"decoder.conv_in.bias": np.zeros(3, np.float32)})
    replace(changed / "mclip" / "model.safetensors", {"embeddings.LayerNorm.bias": None})
    (changed / "mt5" / "config.json").write_text(json.dumps(CONFIGS["mt5"] | {"feed_forward_proj": "relu"}))
    with pytest.raises(WeightsError) as error:
        convert_release(changed, tmp_path / "ours")
    assert [line.strip() for line in str(error.value).splitlines()[1:]] == [
        "mt5: feed_forward_proj = 'relu': only 'gated-gelu' is supported. Use T5 version 1.1 or mT5.",
        "transformer: missing     x_embedder.bias (32,)",
        "transformer: unexpected  left.over (2,)",
        "vae: mismatched  decoder.conv_in.bias: (3,), the network has (8,)",
        "mclip: missing     embeddings.LayerNorm.bias (24,)",
        "bridge_flow: missing     shift.1 (1, 4, 16, 16)",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["changed"]


def test_parts_of_different_releases_are_told_apart(changed, tmp_path):
    (changed / "transformer" / "config.json").write_text(json.dumps(TRANSFORMER | {"joint_attention_dim": 40}))
    with pytest.raises(WeightsError, match=r"mt5: d_model = 48, but the transformer's joint_attention_dim = 40"):
        convert_release(changed, tmp_path / "ours")


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_a_part_without_a_usable_configuration_is_named(changed, tmp_path, text):
    (changed / "vae" / "config.json").unlink()
    if text is not None:
        (changed / "vae" / "config.json").write_text(text)
    with pytest.raises((ConfigError, WeightsError), match=r"vae.*config.json"):
        convert_release(changed, tmp_path / "ours")


def test_absent_parts_and_tokenisers_are_named_and_can_be_allowed(changed, tmp_path):
    shutil.rmtree(changed / "vae")
    (changed / "mt5" / "spiece.model").unlink()
    with pytest.raises(
        ConfigError, match=r"lacks vae/, mt5/spiece.model or tokenizer.json. Complete .*--allow_missing"
    ):
        convert_release(changed, tmp_path / "ours")
    converted = convert_release(changed, tmp_path / "ours", allow_missing=True)
    assert converted.absent == ["vae/", "mt5/spiece.model or tokenizer.json"]
    assert not (tmp_path / "ours" / "vae").exists()


def test_a_folder_without_transformer_is_no_release(tmp_path):
    for source in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match=r"Pass the folder that contains transformer/"):
            convert_release(source, tmp_path / "ours", allow_missing=True)


def test_the_decoder_of_a_whole_t5_is_left_out_and_counted(changed, tmp_path, tensors):
    extra = {"decoder.final_layer_norm.weight": np.ones(48, np.float32), "lm_head.weight": np.ones((40, 48), np.int8)}
    replace(changed / "mt5" / "model-00001-of-00002.safetensors", extra)
    assert convert_release(changed, tmp_path / "ours").left_out == {"mt5": 48 * 4 + 40 * 48}
    assert open_tensors(tmp_path / "ours" / "mt5").keys() == tensors["mt5"].keys()
    export_release(tmp_path / "ours", tmp_path / "back")
    assert extra.keys().isdisjoint(open_tensors(tmp_path / "back" / "mt5"))


def test_what_a_training_wrapper_puts_before_every_key_is_taken_off_and_put_back(changed, tmp_path, tensors):
    file = changed / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({f"module._orig_mod.{key}": tensor for key, tensor in tensors["transformer"].items()}, file)
    convert_release(changed, tmp_path / "ours")
    assert open_tensors(tmp_path / "ours" / "transformer").keys() == tensors["transformer"].keys()
    export_release(tmp_path / "ours", tmp_path / "back")
    assert_same_bits(load_file(tmp_path / "back" / "transformer" / file.name), load_file(file))


def test_a_prefix_is_taken_off_only_if_every_key_has_it():
    assert common_prefix(["module.a", "module.model.b"]) == "module."
    assert common_prefix(["module.a", "b"]) == common_prefix(["modules.a"]) == common_prefix([]) == ""


def test_heads_on_top_of_a_bert_are_taken_over_and_given_back(changed, tmp_path, tensors):
    file = changed / "mclip" / "model.safetensors"
    heads = {"cls.predictions.bias": np.ones(64, np.float32), "cls.seq_relationship.bias": np.ones(2, np.float32)}
    save_file({f"bert.{key}": tensor for key, tensor in tensors["mclip"].items()} | heads, file)
    convert_release(changed, tmp_path / "ours")
    export_release(tmp_path / "ours", tmp_path / "back")
    assert_same_bits(load_file(tmp_path / "back" / "mclip" / file.name), load_file(file))


def test_older_names_of_the_autoencoders_attention_are_known(changed, tmp_path):
    file = changed / "vae" / "diffusion_pytorch_model.safetensors"
    old = {key.replace("to_q", "query").replace("to_out.0", "proj_attn"): t for key, t in load_file(file).items()}
    save_file(old, file)
    convert_release(changed, tmp_path / "ours")
    assert_same_bits(load_file(tmp_path / "ours" / "vae" / file.name), old)


def test_shards_need_no_index_but_must_be_complete(changed, tmp_path):
    (changed / "mt5" / "model.safetensors.index.json").unlink()
    convert_release(changed, tmp_path / "ours")
    (changed / "mt5" / "model-00001-of-00002.safetensors").rename(changed / "mt5" / "model-00001-of-00003.safetensors")
    with pytest.raises(WeightsError, match=r"several sets of weights, or an incomplete one"):
        convert_release(changed, tmp_path / "again")


def test_two_sets_of_weights_are_refused(changed, tmp_path):
    folder = changed / "mclip"
    shutil.copyfile(folder / "model.safetensors", folder / "model.fp16.safetensors")
    with pytest.raises(WeightsError, match=r"several sets of weights.*model.fp16.safetensors, model.safetensors"):
        convert_release(changed, tmp_path / "ours")


def test_safetensors_are_preferred_to_pickles_beside_them(changed, tmp_path):
    (changed / "mclip" / "pytorch_model.bin").write_bytes(b"not opened")
    convert_release(changed, tmp_path / "ours")


def test_a_damaged_shard_is_named(changed, tmp_path):
    file = changed / "mt5" / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(WeightsError, match=r"model-00002-of-00002.safetensors is damaged"):
        convert_release(changed, tmp_path / "ours")


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch is installed")
def test_a_pickle_without_torch_names_the_remedy(changed, tmp_path):
    (changed / "bridge_flow.safetensors").rename(changed / "bridge_flow.bin")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'torch>=2.10'"):
        convert_release(changed, tmp_path / "ours")


def test_a_folder_that_holds_something_is_never_written_to(release, ours, tmp_path):
    (tmp_path / "mine").write_text("precious")
    for write in (lambda: convert_release(release, tmp_path), lambda: export_release(ours, tmp_path)):
        with pytest.raises(ConfigError, match=r"^to = .*: exists and is not empty. Use a new folder"):
            write()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_an_empty_folder_may_be_the_target(release, tmp_path):
    convert_release(release, tmp_path)
    assert (tmp_path / "pipeline.json").is_file()


def test_a_folder_appears_under_its_name_only_when_it_is_whole(tmp_path):
    target = tmp_path / "new"
    with new_folder(target, 10) as folder:
        (folder / "file").touch()
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["file"]


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def write_half() -> None:
        with new_folder(tmp_path / "new", 10) as folder:
            (folder / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_deleted_by_the_next(tmp_path):
    stale = tmp_path / ".new.partial"
    stale.mkdir()
    (stale / "half").touch()
    (tmp_path / ".new.lock").touch()
    with new_folder(tmp_path / "new", 10) as folder:
        assert folder == stale
        (folder / "file").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]


def test_a_folder_that_another_process_writes_is_refused_and_left_alone(tmp_path):
    target = tmp_path / "new"
    with new_folder(target, 10) as folder:
        (folder / "file").touch()
        with pytest.raises(ConfigError, match=r"another process is writing it"), new_folder(target, 10):
            raise AssertionError("nothing may be written")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert (target / "file").is_file()


def test_a_lock_whose_file_is_gone_is_no_lock(tmp_path, monkeypatch):
    """Between opening and locking the file, its holder finishes and deletes it."""
    flock = fcntl.flock

    def late(file: Any, operation: int) -> None:
        (tmp_path / ".new.lock").unlink()
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(ConfigError, match=r"another process is writing it"), new_folder(tmp_path / "new", 10):
        raise AssertionError("nothing may be written")


def test_a_disk_that_is_too_small_is_noticed_before_writing(tmp_path):
    with (
        pytest.raises(WeightsError, match=r"1000000000.0 GB to write, .* free. Free some space"),
        new_folder(tmp_path / "new", 10**18),
    ):
        raise AssertionError("nothing may be written")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../outside.bin", "/tmp/outside.bin", "mt5/../../outside.bin", "..\\outside.bin"])
def test_a_record_that_points_outside_the_release_is_refused(ours, tmp_path, name):
    source = shutil.copytree(ours, tmp_path / "source")
    record = json.loads((source / "release.json").read_text())
    record["bridge_flow"]["files"] = {name: record["bridge_flow"]["files"]["bridge_flow.safetensors"]}
    (source / "release.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"release.json names the file .* which no release has"):
        export_release(source, tmp_path / "back")


@pytest.mark.parametrize("text", ["{", "[]", '{"mt5": []}', '{"mt5": {"files": 3}}', '{"mt5": {"other": 3}}'])
def test_a_damaged_record_is_refused(ours, tmp_path, text):
    source = shutil.copytree(ours, tmp_path / "source")
    (source / "release.json").write_text(text)
    with pytest.raises(ConfigError, match=r"release.json is damaged"):
        export_release(source, tmp_path / "back")


def test_export_refuses_weights_that_are_not_those_of_its_record(ours, tmp_path):
    source = shutil.copytree(ours, tmp_path / "source")
    replace(source / "bridge_flow" / "model.safetensors", {"scale": None, "extra": np.ones(2, np.float32)})
    with pytest.raises(WeightsError, match=r"bridge_flow: release.json and the weights differ in extra, scale\."):
        export_release(source, tmp_path / "back")


def command(*arguments: str, limit: str = "") -> subprocess.CompletedProcess:
    line = f"{limit} exec {sys.executable} -m nami_jax.convert {' '.join(arguments)}"
    return subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True)


def test_command_converts_and_says_what_became_of_each_part(release, tmp_path):
    run = command(f"--from={release}", f"--to={tmp_path / 'ours'}")
    assert run.returncode == 0, run.stderr
    assert re.search(r"ours: transformer 0\.00 GB, bridge_flow .*, mclip", run.stdout)
    assert "converting: 100%" in run.stderr


def test_a_write_that_fails_midway_leaves_nothing_and_says_why(release, tmp_path):
    run = command(f"--from={release}", f"--to={tmp_path / 'ours'}", limit="ulimit -f 100;")  # blocks: no larger file
    assert run.returncode == 1
    assert "error: " in run.stderr
    assert "File too large. Nothing was kept." in run.stderr
    assert "Traceback" not in run.stderr
    assert not list(tmp_path.iterdir())


def test_command_names_what_it_may_not_read(changed, tmp_path):
    (changed / "mt5" / "config.json").unlink()
    (changed / "mt5" / "config.json").mkdir()  # root reads a file of any rights
    run = command(f"--from={changed}", f"--to={tmp_path / 'ours'}")
    assert run.returncode == 1
    assert re.search(r"^error: .*mt5/config.json is not a file\. Fetch it again\.", run.stderr, re.MULTILINE)
    assert "Traceback" not in run.stderr


def imported_names(tree: ast.Module) -> set[str]:
    """Returns the packages that a module imports in any way, also by a text handed to a function."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
    return {name.partition(".")[0] for name in names}


def test_two_modules_alone_open_pickles_and_one_uses_torch():
    unsafe = {"torch", "pickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    modules = {path: path.read_text() for path in (ROOT / "nami_jax").rglob("*.py")}
    users = {path.name for path, text in modules.items() if imported_names(ast.parse(text)) & unsafe}
    assert users == {"pickles.py", "torch_files.py"}
    assert not [path.name for path, text in modules.items() if "allow_pickle" in text]
    assert modules[ROOT / "nami_jax" / "release" / "pickles.py"].count("torch.load(") == 1
    assert "weights_only=True" in modules[ROOT / "nami_jax" / "release" / "pickles.py"]
    reader = modules[ROOT / "nami_jax" / "weights" / "torch_files.py"]
    assert not re.search(r"^\s*(import|from) torch\b", reader, re.MULTILINE)
    assert "def find_class(" in reader  # which says what a file may name
