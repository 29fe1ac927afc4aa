import dataclasses
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from flax.serialization import msgpack_restore, msgpack_serialize

from nami_jax.config import Config, ConfigError
from nami_jax.data.corruption import CorruptDataError
from nami_jax.data.prepared import PreparedData, named_set
from nami_jax.data.prepared_format import Index, Prepared, PreparedSample, Shard, manifest_name
from nami_jax.text.encoder_files import encoder_id
from tests.support.damaged_files import damage_record
from tests.support.sizes import make_config

SQUARE, WIDE, TALL = (32, 32), (32, 64), (64, 32)
# (unit, split, bucket, records, of which held out)
SHARDS = [
    (0, "train", SQUARE, 5, (1, 4)),
    (0, "held_out", WIDE, 1, ()),
    (1, "train", WIDE, 2, ()),
    (2, "train", SQUARE, 4, ()),
    (2, "train", TALL, 1, (0,)),
]


def make_sample(name: str, bucket: tuple[int, int]) -> PreparedSample:
    draw = np.random.default_rng(sum(name.encode()))
    return PreparedSample(
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
        source="folder", source_digest="", records=10, unit_size=4, units=3,
        buckets=(SQUARE, WIDE, TALL), max_upscale=2.0, max_pixels=100, autoencoder="abc", downscale=4, channels=4,
        text_encoder=encoder_id(cfg.text), max_length=8, text_dim=24, pooled_dim=12, dtype="float32",
        caption_templates=("{}",),
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, settings: Prepared) -> Path:
    """A prepared folder, made by hand, with a file that the index does not name."""
    for name in ("data", "manifests"):
        (tmp_path / name).mkdir()
    shards = []
    for unit, split, bucket, count, held_out in [*SHARDS, (9, "train", SQUARE, 1, ())]:
        name = f"data/{split}-{bucket[0]}x{bucket[1]}-{unit:06d}.arrayrecord"
        writer = ArrayRecordWriter(str(tmp_path / name), "group_size:1")
        for i in range(count):
            writer.write(make_sample(f"{unit}/{split}/{i}", bucket).pack())
        writer.close()
        shards.append(Shard(name, unit, split, bucket, count, (tmp_path / name).stat().st_size, held_out))
    for unit in range(settings.units):
        (tmp_path / manifest_name(unit)).touch()
    (tmp_path / "index.json").write_text(Index(shards[:-1]).to_json())
    (tmp_path / "prepared.json").write_text(settings.to_json())
    states = {"embeds": np.ones((1, 8, 24), np.float32), "pooled": np.zeros((1, 12), np.float32)}
    (tmp_path / "empty.msgpack").write_bytes(msgpack_serialize(states))
    return tmp_path


def opened(cfg: Config, folder: Path, fingerprint: str | None = "abc") -> PreparedData:
    prepared = PreparedData(dataclasses.replace(cfg.data, prepared=str(folder)))
    prepared.require_flow(cfg, fingerprint)
    return prepared


def test_a_record_comes_back_with_the_precision_of_bfloat16():
    sample = make_sample("x", WIDE)
    read = PreparedSample.unpack(sample.pack())
    assert (read.id, read.captions) == ("x", ("x é", "b"))
    assert (read.image.dtype, read.text_embeds.dtype) == (np.float32, ml_dtypes.bfloat16)
    np.testing.assert_array_equal(read.image, sample.image.astype(ml_dtypes.bfloat16).astype(np.float32))
    np.testing.assert_array_equal(read.text_embeds, sample.text_embeds)
    np.testing.assert_array_equal(read.pooled, sample.pooled)


def test_pixels_come_back_as_they_are_with_or_without_texts():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    read = PreparedSample.unpack(make_sample("x", WIDE)._replace(image=pixels).pack())
    np.testing.assert_array_equal(read.image, pixels)
    assert read.image.dtype == np.uint8
    bare = PreparedSample.unpack(PreparedSample("y", (), pixels, None, None).pack())
    assert (bare.captions, bare.text_embeds, bare.pooled) == ((), None, None)


def test_latents_of_smaller_sizes_come_back_and_take_no_place_where_there_are_none():
    sample, draw = make_sample("x", WIDE), np.random.default_rng(0)
    lower = tuple(draw.normal(size=(8 // f, 16 // f, 4)).astype(np.float32) for f in (2, 4))
    read = PreparedSample.unpack(sample._replace(lower=lower).pack())
    assert [(latents.shape, latents.dtype) for latents in read.lower] == [((4, 8, 4), "f4"), ((2, 4, 4), "f4")]
    for found, latents in zip(read.lower, lower, strict=True):
        np.testing.assert_array_equal(found, latents.astype(ml_dtypes.bfloat16).astype(np.float32))
    fields: Any = msgpack_restore(sample.pack())
    assert fields.keys() == {"id", "captions", "image", "text_embeds", "pooled"}
    assert PreparedSample.unpack(sample.pack()).lower == ()  # so are all records of earlier versions


def test_settings_come_back(settings):
    assert Prepared.from_json(settings.to_json(), "prepared.json") == settings
    old = json.loads(settings.to_json())
    assert (old.pop("lower_levels"), old.pop("source_set")) == (0, None)
    assert Prepared.from_json(json.dumps(old), "prepared.json") == settings


def test_prepared_data_name_the_set_that_they_were_made_of(folder, cfg, settings):
    data = dataclasses.replace(cfg.data, prepared=str(folder))
    assert named_set(data) is None  # a folder of images
    (folder / "prepared.json").write_text(dataclasses.replace(settings, source="tfds").to_json())
    assert named_set(data) == dataclasses.replace(data, prepared=None, buckets=None)
    named = dataclasses.replace(settings, source="tfds", source_set="cards/small")
    (folder / "prepared.json").write_text(named.to_json())
    assert named_set(data) == dataclasses.replace(data, name="cards/small", prepared=None, buckets=None)
    assert named_set(dataclasses.replace(data, prepared=str(folder / "gone"))) is None


def test_data_without_the_latents_of_every_lower_stage_are_refused(folder, cfg, settings):
    wanted = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, lower_stages="pixels"))
    message = (
        r"data\.lower_stages = 'pixels': 3 stages need the latents of 2 smaller sizes, and .* holds those of {}\. "
    )
    for levels in (0, 1):
        (folder / "prepared.json").write_text(dataclasses.replace(settings, lower_levels=levels).to_json())
        with pytest.raises(ConfigError, match=message.format(levels)):
            opened(wanted, folder)
    for levels in (2, 3):
        (folder / "prepared.json").write_text(dataclasses.replace(settings, lower_levels=levels).to_json())
        opened(wanted, folder)
        opened(cfg, folder)  # which trains on the pooled latents


def test_sources_follow_the_config_and_records_the_units(folder, cfg):
    wide, square = opened(cfg, folder).sources("train")
    assert (wide.bucket, square.bucket) == (WIDE, SQUARE)
    assert [wide[i].id for i in range(len(wide))] == ["1/train/0", "1/train/1"]
    ids = [*(f"0/train/{i}" for i in (0, 2, 3)), *(f"2/train/{i}" for i in range(4))]
    assert [square[i].id for i in range(len(square))] == ids
    assert [square[i].id for i in (6, 0, 3)] == [ids[6], ids[0], ids[3]]
    assert square[0].image.shape == (8, 8, 4)
    assert wide[0].image.shape == (8, 16, 4)
    with pytest.raises(IndexError):
        wide[2]


def test_held_out_records_are_those_drawn_and_those_of_the_source_s_own_split(folder, cfg):
    sources = opened(cfg, folder).sources("held_out")
    assert [(source.bucket, [source[i].id for i in range(len(source))]) for source in sources] == [
        (WIDE, ["0/held_out/0"]),
        (SQUARE, ["0/train/1", "0/train/4"]),
        (TALL, ["2/train/0"]),
    ]


def test_a_source_can_be_sent_to_another_process(folder, cfg):
    source = opened(cfg, folder).sources("train")[1]
    source[0]  # opens a file, which cannot be sent
    again = pickle.loads(pickle.dumps(source))
    assert (again.bucket, len(again), again[5].id) == (SQUARE, 7, source[5].id)


@pytest.fixture
def damaged(folder) -> Path:
    """One training record of nine is damaged: the second of the square ones."""
    damage_record(folder / "data/train-32x32-000000.arrayrecord", 2)
    return folder


def test_a_damaged_record_is_skipped_and_counted(damaged, cfg, caplog):
    cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, max_corrupt_share=0.2))
    wide, square = opened(cfg, damaged).sources("train")
    with caplog.at_level(logging.WARNING, "absl"):
        assert [square[i].id for i in (0, 1, 2, 1)] == ["0/train/0", "0/train/3", "0/train/3", "0/train/3"]
    assert (square.num_corrupt, wide.num_corrupt) == (1, 0)
    (record,) = caplog.records
    assert "record 2 of data/train-32x32-000000.arrayrecord is corrupt" in record.getMessage()


def test_too_many_damaged_records_stop_the_run(damaged, cfg):
    square = opened(cfg, damaged).sources("train")[1]
    with pytest.raises(
        CorruptDataError, match=r"1 of 9 images cannot be read.*max_corrupt_share = 0\.01.* Remove .*run"
    ):
        square[1]


def test_a_file_that_is_gone_in_mid_training_stops_the_run_with_its_name(folder, cfg):
    wide = opened(cfg, folder).sources("train")[0]
    (folder / "data/train-32x64-000001.arrayrecord").unlink()
    with pytest.raises(CorruptDataError, match=r"0 of data/train-32x64-000001.*No such file"):
        wide[0]


def test_the_states_of_no_text_are_float32(folder, cfg):
    embeds, pooled = opened(cfg, folder).empty
    assert (embeds.shape, pooled.shape) == ((1, 8, 24), (1, 12))
    assert embeds.dtype == pooled.dtype == np.float32


def states(**fields: np.ndarray) -> bytes:
    whole = {"embeds": np.ones((1, 8, 24), np.float32), "pooled": np.zeros((1, 12), np.float32)}
    return msgpack_serialize(whole | fields)


@pytest.mark.parametrize(
    "content",
    [None, b"", b"garbage", states()[:-20], msgpack_serialize([1]), msgpack_serialize({"embeds": 1}),
     states(pooled=np.zeros((1, 11), np.float32)), states(pooled=np.zeros((1, 12))),
     states(pooled=np.full((1, 12), np.nan, np.float32)), states(more=np.zeros(1, np.float32))],
)  # fmt: skip
def test_damaged_states_of_no_text_are_named_with_the_remedy(folder, cfg, content):
    path = folder / "empty.msgpack"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"empty\.msgpack.*To make it again, run `python -m nami_jax\.prepare`"):
        _ = opened(cfg, folder).empty


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
        opened(cfg, folder)


def test_the_order_of_buckets_is_free(folder, cfg):
    cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, buckets=(TALL, SQUARE, WIDE)))
    assert [source.bucket for source in opened(cfg, folder).sources("train")] == [SQUARE, WIDE]


def test_training_needs_no_text_encoder(folder, cfg, caplog):
    text = dataclasses.replace(cfg.text, encoder="t5_bert", folder="not here")
    with caplog.at_level(logging.WARNING, "absl"):
        opened(dataclasses.replace(cfg, text=text), folder)
    (record,) = caplog.records
    assert "text encoder of this config: text.folder = 'not here'" in record.getMessage()


def test_another_autoencoder_is_refused(folder, cfg):
    with pytest.raises(ConfigError, match=r"autoencoder\.folder = 'there': .* made by another autoencoder, abc"):
        opened(cfg, folder, "def")


def test_pixels_and_latents_are_told_apart(folder, cfg):
    with pytest.raises(ConfigError, match=r"data\.prepared = .* holds latents, and the run is one of pixels"):
        opened(cfg, folder, None)
    with pytest.raises(ConfigError, match="holds latents"):
        opened(cfg, folder).require_pixels()


def test_a_flow_needs_states_of_its_captions(folder, cfg, settings):
    (folder / "prepared.json").write_text(dataclasses.replace(settings, text_encoder=None).to_json())
    with pytest.raises(ConfigError, match="was prepared without states of its captions"):
        opened(cfg, folder)


def test_an_unfinished_preparation_is_refused_with_how_much_is_done(folder, cfg):
    (folder / manifest_name(1)).unlink()
    (folder / "index.json").unlink()
    with pytest.raises(ConfigError, match=r"only 2 of 3 units of work are done.* To continue, run `python -m"):
        opened(cfg, folder)


@pytest.mark.parametrize("cut", [None, 100])
def test_a_file_that_is_missing_or_cut_is_named(folder, cfg, cut):
    path = folder / "data" / "train-32x64-000001.arrayrecord"
    path.unlink() if cut is None else path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(
        ConfigError, match=r"train-32x64-000001\.arrayrecord is missing .* Remove .*000001\.json and run"
    ):
        opened(cfg, folder)


def test_a_folder_that_was_not_prepared_is_refused(tmp_path, cfg):
    with pytest.raises(ConfigError, match=r"data\.prepared = .* has no prepared\.json\. First run `python -m nami_jax"):
        opened(cfg, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        ("[]", "it holds a list instead of an object"),
        ("[" * 100_000, "is damaged"),
        ('{"format": 2}', r"prepared\.json is damaged: source, .* are missing\. Remove its folder and run `python -m"),
        ('{"format": 2, "units": "3"}', r"units = '3': must be an integer"),
        ('{"format": 1}', r"format = 1: this version reads format 2"),
    ],
)
def test_settings_of_another_version_or_damaged_are_refused(folder, cfg, content, message):
    (folder / "prepared.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        opened(cfg, folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"shards": [{"name": "x"}]}', b'{"shards": 3}', b"\xff", b'{"shards": ' + b"[" * 100_000],
)
def test_a_damaged_index_is_named(folder, cfg, content):
    (folder / "index.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"index\.json is damaged: .*\. Remove it and run `python -m"):
        opened(cfg, folder)


def test_data_without_held_out_records_are_trained_on_and_those_with_nothing_else_are_not(folder, cfg):
    shards = Index.from_json((folder / "index.json").read_bytes(), "").shards
    kept = [shard._replace(held_out=()) for shard in shards if shard.split == "train"]
    (folder / "index.json").write_text(Index(kept).to_json())
    assert opened(cfg, folder).sources("held_out") == []
    assert sum(map(len, opened(cfg, folder).sources("train"))) == 12
    (folder / "index.json").write_text(Index([s for s in shards if s.split != "train"]).to_json())
    with pytest.raises(ConfigError, match=r"has no records to train on\. Set another and run"):
        opened(cfg, folder).sources("train")
