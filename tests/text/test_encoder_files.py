import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from nami_jax.config import ConfigError, TextConfig
from nami_jax.text.encoder_files import encoder_id, encoder_widths
from nami_jax.weights import open_tensors, save_tensors
from tests.support.text_release import golden_facts, text_config, write_release


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    return write_release(tmp_path_factory.mktemp("release"))


@pytest.fixture
def copy(release, tmp_path) -> Path:
    return Path(shutil.copytree(release, tmp_path / "copy"))


def change_tensor(file: Path, key: str, index: tuple[int, ...]) -> None:
    tensors = safetensors.numpy.load_file(file)
    tensors[key][index] += 1
    safetensors.numpy.save_file(tensors, file)


def test_widths_need_the_configs_alone(release, tmp_path):
    for part in ("mt5", "mclip"):
        (tmp_path / part).mkdir()
        shutil.copy(release / part / "config.json", tmp_path / part)
    assert encoder_widths(text_config(tmp_path)) == (24, 16)
    assert encoder_widths(TextConfig()) == (384, 384)


def test_widths_without_configs_name_the_remedy(tmp_path):
    with pytest.raises(ConfigError, match=r"lacks mt5/config\.json, mclip/config\.json\. .*nami_jax\.convert"):
        encoder_widths(text_config(tmp_path))


def test_damaged_config_is_named(copy):
    (copy / "mclip" / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"mclip/config\.json is damaged"):
        encoder_widths(text_config(copy))


def test_id_does_not_change_with_place_time_or_sharding_of_the_files(release, copy):
    expected = encoder_id(text_config(release))
    assert encoder_id(text_config(copy)) == expected
    tensors = open_tensors(copy / "mt5")
    save_tensors(tensors, copy / "mt5" / "shards", "model", shard_bytes=8_000)
    (copy / "mt5" / "model.safetensors").unlink()
    for path in (copy / "mt5" / "shards").iterdir():
        os.utime(path, (0, 0))
        shutil.move(path, copy / "mt5" / path.name)
    assert len(list((copy / "mt5").glob("*.safetensors"))) > 1
    assert encoder_id(text_config(copy)) == expected


@pytest.mark.parametrize("changed", [{"max_length": 9}, {"mask_padding": True}, {"pooled_length": 9}])
def test_id_of_t5_bert_changes_with_every_setting(release, changed):
    assert encoder_id(text_config(release)) != encoder_id(text_config(release, **changed))


@pytest.mark.parametrize(
    ("part", "key", "index"),
    [
        ("mt5", "encoder.final_layer_norm.weight", (20,)),
        ("mt5", "encoder.block.1.layer.1.DenseReluDense.wo.weight", (0, 30)),
        ("mclip", "encoder.layer.1.output.dense.bias", (3,)),
    ],
)
def test_id_changes_with_the_weights(release, copy, part, key, index):
    change_tensor(copy / part / "model.safetensors", key, index)
    assert encoder_id(text_config(copy)) != encoder_id(text_config(release))


def test_id_changes_with_sizes_that_no_shape_shows(release, copy):
    fields = golden_facts()["mt5_config"] | {"relative_attention_max_distance": 20}
    (copy / "mt5" / "config.json").write_text(json.dumps(fields))
    assert encoder_id(text_config(copy)) != encoder_id(text_config(release))


def test_id_does_not_change_with_what_the_config_says_beside_sizes(release, copy):
    fields = golden_facts()["mt5_config"] | {"transformers_version": "0.0.0"}
    (copy / "mt5" / "config.json").write_text(json.dumps(fields, indent=4))
    assert encoder_id(text_config(copy)) == encoder_id(text_config(release))


def test_id_changes_with_the_tokenisers(release, copy):
    ids = [encoder_id(text_config(release))]
    (copy / "mclip" / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    ids.append(encoder_id(text_config(copy)))
    with (copy / "mt5" / "spiece.model").open("ab") as file:
        file.write(b"\0")
    ids.append(encoder_id(text_config(copy)))
    assert len(set(ids)) == 3


def test_id_of_minilm_depends_on_its_own_settings_alone(monkeypatch):
    monkeypatch.setattr(sys, "path", [])  # not even on the weights being there
    cfg = TextConfig(max_length=8)
    assert encoder_id(cfg) == encoder_id(dataclasses.replace(cfg, folder="elsewhere", pooled_length=12))
    others = [dataclasses.replace(cfg, max_length=9), dataclasses.replace(cfg, mask_padding=False)]
    assert len({encoder_id(cfg), *map(encoder_id, others)}) == 3


def test_id_needs_the_files_and_names_the_remedy(copy):
    (copy / "mt5" / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"lacks mt5/\*\.safetensors\. .*nami_jax\.convert"):
        encoder_id(text_config(copy))


def test_id_of_weights_in_half_precision_is_another(release, copy):
    file = copy / "mt5" / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    safetensors.numpy.save_file({key: tensor.astype(np.float16) for key, tensor in tensors.items()}, file)
    assert encoder_id(text_config(copy)) != encoder_id(text_config(release))
