import dataclasses
import json
import logging
import pickle
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from flax.serialization import msgpack_serialize

from nami_jax.config import Config, ConfigError
from nami_jax.data.latents import LatentSample, Prepared, PreparedLatents, Shard, manifest_name
from nami_jax.text.encoder_files import encoder_id
from tests.support.sizes import make_config

SQUARE, WIDE, TALL = (32, 32), (32, 64), (64, 32)
# (unit, split, bucket, records)
SHARDS = [(0, "train", SQUARE, 3), (0, "held_out", WIDE, 1), (1, "train", WIDE, 2), (2, "train", SQUARE, 4)]


def make_sample(name: str, bucket: tuple[int, int]) -> LatentSample:
    draw = np.random.default_rng(sum(name.encode()))
    return LatentSample(
        name, (f"{name} é", "b"), draw.normal(size=(bucket[0] // 4, bucket[1] // 4, 4)).astype(np.float32),
        draw.normal(size=(2, 8, 24)).astype(ml_dtypes.bfloat16), draw.normal(size=(2, 12)).astype(np.float32),
    )  # fmt: skip


@pytest.fixture
def cfg() -> Config:
    return make_config(
        model={"channels": 4, "patch_size": 1},
        data={"side": 32, "prepared": "there", "buckets": (WIDE, SQUARE, TALL)},
        autoencoder={"folder": "there", "downscale": 4},
    )


@pytest.fixture
def settings(cfg: Config) -> Prepared:
    return Prepared(
        source="folder", source_digest="", records=10, unit_size=4, units=3, eval_share=0.1,
        buckets=(SQUARE, WIDE, TALL), max_upscale=2.0, max_pixels=100, autoencoder="abc", downscale=4, channels=4,
        text_encoder=encoder_id(cfg.text), max_length=8, text_dim=24, pooled_dim=12, dtype="float32",
        caption_templates=("{}",),
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, settings: Prepared) -> Path:
    """A prepared folder, made by hand, with a file that no manifest names."""
    for name in ("data", "manifests"):
        (tmp_path / name).mkdir()
    manifests = {unit: [] for unit in range(settings.units)}
    for unit, split, bucket, count in [*SHARDS, (9, "train", SQUARE, 1)]:
        name = f"data/{split}-{bucket[0]}x{bucket[1]}-{unit:06d}.arrayrecord"
        writer = ArrayRecordWriter(str(tmp_path / name), "group_size:1")
        for i in range(count):
            writer.write(make_sample(f"{unit}/{split}/{i}", bucket).pack())
        writer.close()
        shard = Shard(name, split, bucket, count, (tmp_path / name).stat().st_size)
        manifests.setdefault(unit, []).append(shard._asdict())
    for unit in range(settings.units):
        (tmp_path / manifest_name(unit)).write_text(json.dumps({"shards": manifests[unit], "rejects": []}))
    (tmp_path / "prepared.json").write_text(settings.to_json())
    states = {"embeds": np.ones((1, 8, 24), np.float32), "pooled": np.zeros((1, 12), np.float32)}
    (tmp_path / "empty.msgpack").write_bytes(msgpack_serialize(states))
    return tmp_path


def test_a_record_comes_back_with_the_precision_of_bfloat16():
    sample = make_sample("x", WIDE)
    read = LatentSample.unpack(sample.pack())
    assert (read.id, read.captions) == ("x", ("x é", "b"))
    assert (read.latents.dtype, read.text_embeds.dtype) == (np.float32, ml_dtypes.bfloat16)
    np.testing.assert_array_equal(read.latents, sample.latents.astype(ml_dtypes.bfloat16).astype(np.float32))
    np.testing.assert_array_equal(read.text_embeds, sample.text_embeds)
    np.testing.assert_array_equal(read.pooled, sample.pooled)


def test_settings_come_back(settings):
    assert Prepared.from_json(settings.to_json(), "prepared.json") == settings


def test_sources_follow_the_config_and_records_the_units(folder, cfg):
    wide, square = PreparedLatents(folder, cfg).sources("train")
    assert (wide.bucket, square.bucket) == (WIDE, SQUARE)
    assert [wide[i].id for i in range(len(wide))] == ["1/train/0", "1/train/1"]
    ids = [*(f"0/train/{i}" for i in range(3)), *(f"2/train/{i}" for i in range(4))]
    assert [square[i].id for i in range(len(square))] == ids
    assert [square[i].id for i in (6, 0, 3)] == [ids[6], ids[0], ids[3]]
    assert square[0].latents.shape == (8, 8, 4)
    assert wide[0].latents.shape == (8, 16, 4)
    (held_out,) = PreparedLatents(folder, cfg).sources("held_out")
    assert (held_out.bucket, len(held_out)) == (WIDE, 1)
    with pytest.raises(IndexError):
        wide[2]


def test_a_source_can_be_sent_to_another_process(folder, cfg):
    source = PreparedLatents(folder, cfg).sources("train")[1]
    source[0]  # opens a file, which cannot be sent
    again = pickle.loads(pickle.dumps(source))
    assert (again.bucket, len(again), again[5].id) == (SQUARE, 7, source[5].id)


def test_the_states_of_no_text_are_float32(folder, cfg):
    embeds, pooled = PreparedLatents(folder, cfg).empty
    assert (embeds.shape, pooled.shape) == ((1, 8, 24), (1, 12))
    assert embeds.dtype == pooled.dtype == np.float32


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        ("data", {"buckets": (SQUARE, WIDE)}, r"data\.buckets = \[\(32, 32\), \(32, 64\)\]: .* was prepared with"),
        ("data", {"caption_templates": ("a {}",)}, r"data\.caption_templates = \('a {}',\): .*\('{}',\)"),
        ("autoencoder", {"downscale": 2}, r"autoencoder\.downscale = 2: .* with 4"),
        ("model", {"channels": 16}, r"model\.channels = 16: .* with 4"),
        ("model", {"text_dim": 25}, r"model\.text_dim = 25: .* with 24"),
        ("model", {"pooled_dim": 1}, r"model\.pooled_dim = 1: .* with 12"),
        ("text", {"max_length": 9}, r"text\.max_length = 9: .* with 8"),
        ("text", {"mask_padding": False}, r"text = 'minilm-\w+': .* with 'minilm-\w+'"),
    ],
)
def test_data_for_another_run_are_refused_with_the_field_and_the_remedy(folder, cfg, section, fields, message):
    cfg = dataclasses.replace(cfg, **{section: dataclasses.replace(getattr(cfg, section), **fields)})
    with pytest.raises(ConfigError, match=rf"{message}.* Set that .*, or another data\.prepared and run `python"):
        PreparedLatents(folder, cfg)


def test_the_order_of_buckets_is_free(folder, cfg):
    cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, buckets=(TALL, SQUARE, WIDE)))
    assert [source.bucket for source in PreparedLatents(folder, cfg).sources("train")] == [SQUARE, WIDE]


def test_training_needs_no_text_encoder(folder, cfg, caplog):
    text = dataclasses.replace(cfg.text, encoder="t5_bert", folder="not here")
    with caplog.at_level(logging.WARNING, "absl"):
        PreparedLatents(folder, dataclasses.replace(cfg, text=text))
    (record,) = caplog.records
    assert "text encoder of this config: text.folder = 'not here'" in record.getMessage()


def test_another_autoencoder_is_refused(folder, cfg):
    prepared = PreparedLatents(folder, cfg)
    prepared.require_autoencoder("abc")
    with pytest.raises(ConfigError, match=r"autoencoder\.folder = 'def': .* made by another autoencoder, abc"):
        prepared.require_autoencoder("def")


def test_an_unfinished_preparation_is_refused_with_how_much_is_done(folder, cfg):
    (folder / manifest_name(1)).unlink()
    with pytest.raises(ConfigError, match=r"only 2 of 3 units of work are done\. To continue, run `python -m"):
        PreparedLatents(folder, cfg)


@pytest.mark.parametrize("cut", [None, 100])
def test_a_file_that_is_missing_or_cut_is_named(folder, cfg, cut):
    path = folder / "data" / "train-32x64-000001.arrayrecord"
    path.unlink() if cut is None else path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(
        ConfigError, match=r"train-32x64-000001\.arrayrecord is missing .* Remove .*000001\.json and run"
    ):
        PreparedLatents(folder, cfg)


def test_a_folder_that_was_not_prepared_is_refused(tmp_path, cfg):
    with pytest.raises(ConfigError, match=r"data\.prepared = .* has no prepared\.json\. First run `python -m nami_jax"):
        PreparedLatents(tmp_path, cfg)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"format": 1}', r"json is damaged: source, .* are missing\. Remove its folder and run `python -m"),
        ('{"format": 1, "buckets": [], "caption_templates": []}', r"is damaged: source, .* are missing"),
        ('{"format": 0}', r"format = 0: this version reads format 1"),
    ],
)
def test_settings_of_another_version_or_damaged_are_refused(folder, cfg, content, message):
    (folder / "prepared.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        PreparedLatents(folder, cfg)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"shards": [{"name": "x"}], "rejects": []}', '{"shards": []}'])
def test_a_damaged_manifest_is_named(folder, cfg, content):
    (folder / manifest_name(1)).write_text(content)
    with pytest.raises(ConfigError, match=r"manifests/000001\.json is damaged: .*\. Remove it and run `python -m"):
        PreparedLatents(folder, cfg)


def test_a_split_without_records_is_refused(folder, cfg):
    manifest = json.loads((folder / manifest_name(0)).read_text())
    manifest["shards"] = [shard for shard in manifest["shards"] if shard["split"] != "held_out"]
    (folder / manifest_name(0)).write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match=r"has no records of 'held_out'\. .* larger --eval_share"):
        PreparedLatents(folder, cfg).sources("held_out")
