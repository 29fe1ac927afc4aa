"""Whole preparations: what is stored, what is left out, and that an interrupted one continues."""

import collections
import dataclasses
import io
import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
from apache_beam.io.localfilesystem import LocalFileSystem
from PIL import Image

from nami_jax.autoencoder.codec import Autoencoder
from nami_jax.config import AutoencoderConfig, Config, ConfigError
from nami_jax.data.prepared import PreparedData, named_set
from nami_jax.data.prepared_format import PreparedSample
from nami_jax.preparation import beam_files as files
from nami_jax.preparation.errors import PreparationError, Reject, RejectedError
from nami_jax.preparation.folder_source import FolderSource, read_inside
from nami_jax.preparation.job import Job, Options, release_networks
from nami_jax.preparation.orchestration import prepare
from nami_jax.preparation.sources import Item
from nami_jax.preparation.worker import AT_ONCE, MAX_HELD, prepare_unit, read_ahead
from nami_jax.text.encoders import load_text_encoder
from tests.preparation.conftest import SQUARE, WIDE, files_below, png, write_lines
from tests.support.autoencoder_runs import make_autoencoder_run
from tests.support.images import bomb
from tests.support.paths import ROOT
from tests.support.runs import COLOURS, card_config

OPTIONS = Options(unit_size=3, held_out=0.4, max_pixels=1_000_000, batch_size=4)
GOOD = 30
BAD = {
    "none.png": "missing file",
    "half.png": "unreadable image",
    "bomb.png": "decompression bomb",
    "../outside.png": "unsafe path",
    "link.png": "unsafe path",
    "small.png": "too small",
    "blank.png": "empty caption",
    "silent.png": "empty caption",
    "number.png": "caption is not text",
    "many.png": "too many captions",
    "long.png": "caption too long",
    "good/03.png": "duplicate id",
    "line": "broken JSON",
}


def make_folder(folder: Path) -> None:
    """Thirty good images of two shapes with a bad record behind some of them."""
    (folder / "good").mkdir(parents=True)
    (folder.parent / "outside.png").write_bytes(png())
    (folder / "link.png").symlink_to(folder.parent / "outside.png")
    contents = {"half.png": png()[:50], "bomb.png": bomb(), "small.png": png(5, 5)}
    for name in ("blank.png", "silent.png", "number.png", "many.png", "long.png"):
        contents[name] = png()
    captions = {"blank.png": [" ", ""], "silent.png": None, "number.png": 3}
    captions |= {"many.png": [f"{i}" for i in range(65)], "long.png": "x" * 10_001}
    bad = [b"{" if name == "line" else {"file_name": name, "text": captions.get(name, "x")} for name in BAD]
    lines = []
    for i in range(GOOD):
        name = f"good/{i:02d}.png"
        contents[name] = png(40 if i % 3 == 0 else 20, 20, COLOURS[i % len(COLOURS)])
        lines.append({"file_name": name, "text": [f"{COLOURS[i % len(COLOURS)]} card", f"card {i}"]})
        lines += bad[i - 4 : i - 3] if i >= 4 else []
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    write_lines(folder, lines)


class Prepared(NamedTuple):
    cfg: Config
    source: Path
    out: Path
    text: str  # what the command printed


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, latent_config, data_fields) -> Prepared:
    """The folder, prepared without a break."""
    folder = tmp_path_factory.mktemp("folder")
    make_folder(folder / "source")
    cfg = data_fields(latent_config, prepared=str(folder / "out"))
    text = prepare(cfg, str(folder / "source"), str(folder / "out"), OPTIONS)
    return Prepared(cfg, folder / "source", folder / "out", text)


def opened(cfg: Config, out: Path) -> PreparedData:
    return PreparedData(dataclasses.replace(cfg.data, prepared=str(out)))


def all_samples(cfg: Config, out: Path) -> dict[str, dict[str, tuple[tuple[int, int], PreparedSample]]]:
    """Returns split -> id -> (bucket, sample); fails if an id comes twice."""
    data, found = opened(cfg, out), {}
    for split in ("train", "held_out"):
        found[split] = {}
        for source in data.sources(split):
            for i in range(len(source)):
                assert not any(source[i].id in samples for samples in found.values())
                found[split][source[i].id] = source.bucket, source[i]
    return found


def committed(out: Path) -> list[Any]:
    """Returns what all manifests say, with the content of each file for its name, in which every attempt differs."""
    manifests = [json.loads(path.read_bytes()) for path in sorted((out / "manifests").iterdir())]
    for manifest in manifests:
        for shard in manifest["shards"]:
            shard["name"] = (out / shard["name"]).read_bytes()
    return manifests


def test_every_good_record_is_stored_once_in_its_split_and_bucket(prepared):
    found = all_samples(prepared.cfg, prepared.out)
    expected = {f"good/{i:02d}.png": SQUARE if i % 3 else WIDE for i in range(GOOD)}
    assert {i: bucket for samples in found.values() for i, (bucket, _) in samples.items()} == expected
    assert {split: len(samples) for split, samples in found.items()} == {"train": 18, "held_out": 12}


def test_holding_out_another_number_encodes_nothing_anew(prepared, tmp_path):
    shutil.copytree(prepared.out, tmp_path, dirs_exist_ok=True)
    before, held_out = files_below(tmp_path, "data", "manifests"), {}
    for number, count in ((0.4, 12), (5, 5), (0.001, 1), (None, 0), (20, 20)):
        text = prepare(prepared.cfg, str(prepared.source), str(tmp_path), dataclasses.replace(OPTIONS, held_out=number))
        found = all_samples(prepared.cfg, tmp_path)
        assert f"30 images (train {30 - count}, held_out {count})" in text
        assert (len(found["train"]), len(found["held_out"])) == (30 - count, count)
        assert ("No image is held out" in text) == (count == 0)
        held_out[number] = set(found["held_out"])
    assert files_below(tmp_path, "data", "manifests") == before
    assert held_out[0.001] < held_out[5] < held_out[0.4] < held_out[20]  # none of them ever becomes a training image
    with pytest.raises(ConfigError, match=r"held_out = 30: only 30 images can be used.* Set at most 29"):
        prepare(prepared.cfg, str(prepared.source), str(tmp_path), dataclasses.replace(OPTIONS, held_out=30))


def test_a_record_holds_the_latents_and_the_states_of_its_captions_in_every_template(prepared):
    found = all_samples(prepared.cfg, prepared.out)
    bucket, sample = (found["train"] | found["held_out"])["good/09.png"]
    assert sample.captions == ("lime card", "a lime card", "card 9", "a card 9")
    image = np.asarray(Image.new("RGB", (32, 16), "lime"))[None] / np.float32(127.5) - np.float32(1)
    autoencoder = Autoencoder.from_folder(str(prepared.cfg.autoencoder.folder))
    latents = autoencoder.encode(image)[0]
    states = load_text_encoder(prepared.cfg.text)(sample.captions)
    assert bucket == WIDE
    assert sample.image.shape == (8, 16, 4)
    # bfloat16 keeps 8 bits; other batches round differently in float32, which can tip a bfloat16 over.
    np.testing.assert_allclose(sample.image, latents, rtol=2**-7, atol=1e-5)
    assert sample.text_embeds.dtype == ml_dtypes.bfloat16
    np.testing.assert_allclose(sample.text_embeds.astype(np.float32), states.embeds, rtol=2**-7, atol=1e-5)
    np.testing.assert_allclose(sample.pooled, states.pooled, rtol=1e-4, atol=1e-6)


def test_bad_records_are_listed_with_their_reasons_and_counted(prepared):
    rejects = [json.loads(line) for line in (prepared.out / "rejects.jsonl").read_text().splitlines()]
    reasons = {reject["id"]: reject["reason"] for reject in rejects}
    assert len(rejects) == len(BAD)
    (line,) = (name for name in reasons if name.startswith("metadata.jsonl:"))
    assert {"line" if name == line else name: reason for name, reason in reasons.items()} == BAD
    summary = json.loads((prepared.out / "summary.json").read_text())
    assert summary["kept"] == GOOD == sum(summary["splits"].values())
    assert summary["buckets"] == {"16x16": 20, "16x32": 10}
    assert summary["rejected"] == len(BAD)
    assert summary["reasons"] == collections.Counter(BAD.values())
    assert summary["this_run"]["images"] == GOOD + len(BAD)
    assert "30 images (train" in prepared.text
    assert "13 rejected (30 %): " in prepared.text


def test_the_contact_sheet_shows_originals(prepared):
    with Image.open(prepared.out / "contact_sheet.png") as picture:
        sheet = np.asarray(picture.convert("RGB"))
    colours = {tuple(int(level) for level in colour) for colour in sheet.reshape(-1, 3)}
    assert len({Image.new("RGB", (1, 1), c).getpixel((0, 0)) for c in COLOURS} & colours) > len(COLOURS) // 2


def test_the_states_of_no_text_are_stored_in_full(prepared):
    empty = opened(prepared.cfg, prepared.out).empty
    expected = load_text_encoder(prepared.cfg.text)([""])
    for stored, state in zip(empty, expected, strict=True):
        assert stored.dtype == np.float32
        np.testing.assert_allclose(stored, state, rtol=1e-5, atol=1e-7)


def config_file(cfg: Config, path: Path) -> Path:
    path.write_text(
        f"from ml_collections import ConfigDict\n\ndef get_config():\n    return ConfigDict({cfg.to_dict()!r})\n"
    )
    return path


def test_a_killed_run_continues_to_the_same_bytes(prepared, tmp_path):
    out = tmp_path / "out"
    fields = [f"--{name}={value}" for name, value in dataclasses.asdict(OPTIONS).items()]
    command = [sys.executable, "-m", "nami_jax.prepare", "--config", config_file(prepared.cfg, tmp_path / "config.py"),
               "--source", prepared.source, "--out", out, *fields]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    while len(list(out.glob("manifests/*.json"))) < 2:
        with pytest.raises(subprocess.TimeoutExpired):  # it is still at work
            process.wait(timeout=0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    done = files_below(out, "data", "manifests")
    manifests = sum(name.startswith("manifests/") and name.endswith(".json") for name in done)
    total = len(files_below(prepared.out, "manifests"))
    assert 2 <= manifests < total
    with pytest.raises(ConfigError, match=rf"only {manifests} of {total} units of work are done"):
        opened(prepared.cfg, out)

    text = prepare(prepared.cfg, str(prepared.source), str(out), OPTIONS)
    assert committed(out) == committed(prepared.out)
    assert sum(map(len, all_samples(prepared.cfg, out).values())) == GOOD
    assert (out / "rejects.jsonl").read_bytes() == (prepared.out / "rejects.jsonl").read_bytes()
    assert not (out / "unfinished").exists()
    left = sum(name.endswith(".json") for name in done)
    assert f"this run: {GOOD + len(BAD) - 3 * left} images" in text


def test_a_finished_preparation_is_not_done_again(prepared):
    before = files_below(prepared.out, "data", "manifests")
    text = prepare(prepared.cfg, str(prepared.source), str(prepared.out), OPTIONS)
    assert "this run: 0 images" in text
    assert files_below(prepared.out, "data", "manifests") == before


def test_a_worker_leaves_a_unit_alone_that_another_has_finished(prepared):
    job = Job(prepared.cfg, FolderSource(str(prepared.source)), str(prepared.out), OPTIONS)
    assert prepare_unit(tuple(job.source.plan(3).units[0]), job) == (0, 0)


def test_another_attempt_at_a_unit_writes_over_no_file(prepared, tmp_path):
    shutil.copytree(prepared.out, tmp_path, dirs_exist_ok=True)
    before = files_below(tmp_path, "data")
    (tmp_path / "manifests" / "000003.json").unlink()
    job = Job(prepared.cfg, FolderSource(str(prepared.source)), str(tmp_path), OPTIONS)
    kept, rejected = prepare_unit(tuple(job.source.plan(3).units[3]), job)
    assert kept + rejected == 3
    after = files_below(tmp_path, "data")
    assert before.items() < after.items()
    assert committed(tmp_path) == committed(prepared.out)


def test_networks_that_other_processes_use_are_let_go_of_here(prepared):
    job = Job(prepared.cfg, FolderSource(str(prepared.source)), str(prepared.out), OPTIONS)
    networks = [weakref.ref(network) for network in job.networks()]
    assert all(network() is not None for network in networks)
    release_networks()
    assert not any(network() for network in networks)


def test_no_more_records_are_read_than_may_be_held_in_memory():
    held = [MAX_HELD // 2, 0, MAX_HELD // 2, MAX_HELD, 5]
    records = [Item(str(i), bytes, (), size) for i, size in enumerate(held)]
    assert [[record.id for record in some] for some in read_ahead(iter(records))] == [["0", "1", "2"], ["3"], ["4"]]
    many = [Reject(str(i), "", "") for i in range(2 * AT_ONCE + 1)]
    assert [len(some) for some in read_ahead(iter(many))] == [AT_ONCE, AT_ONCE, 1]


def test_a_contact_sheet_leaves_out_originals_that_are_gone(prepared, tmp_path, caplog):
    shutil.copytree(prepared.source, tmp_path / "source", symlinks=True)
    for i in (*range(0, GOOD, 3), 1):  # all wide ones and a square one
        (tmp_path / "source" / f"good/{i:02d}.png").unlink()
    (tmp_path / "out").mkdir()
    shutil.copytree(prepared.out, tmp_path / "out", dirs_exist_ok=True)
    before = (tmp_path / "out" / "contact_sheet.png").read_bytes()
    with caplog.at_level(logging.WARNING, "absl"):
        prepare(prepared.cfg, str(tmp_path / "source"), str(tmp_path / "out"), OPTIONS)
    (record,) = caplog.records
    assert "can no longer be read from the source" in record.getMessage()
    with Image.open(tmp_path / "out" / "contact_sheet.png") as sheet, Image.open(io.BytesIO(before)) as full:
        assert sheet.height < full.height


def test_data_of_unknown_settings_are_refused(prepared, tmp_path):
    shutil.copytree(prepared.out, tmp_path, dirs_exist_ok=True)
    for name in ("prepared.json", "index.json", "summary.json", "rejects.jsonl", "contact_sheet.png"):
        (tmp_path / name).unlink()
    with pytest.raises(
        ConfigError, match=r"contains prepared manifests but no prepared\.json\. Remove manifests and data"
    ):
        prepare(prepared.cfg, str(prepared.source), str(tmp_path), OPTIONS)


def test_files_that_are_no_manifests_do_not_disturb(prepared, tmp_path):
    shutil.copytree(prepared.out, tmp_path, dirs_exist_ok=True)
    (tmp_path / "manifests" / "000003.json").unlink()
    (tmp_path / "manifests" / "notes.json").write_text("{")
    assert "this run: 3 images" in prepare(prepared.cfg, str(prepared.source), str(tmp_path), OPTIONS)


def test_a_damaged_manifest_is_named(prepared, tmp_path):
    shutil.copytree(prepared.out, tmp_path, dirs_exist_ok=True)
    (tmp_path / "manifests" / "000003.json").write_text("{")
    with pytest.raises(ConfigError, match=r"000003\.json is damaged: .*\. Remove it and run"):
        prepare(prepared.cfg, str(prepared.source), str(tmp_path), OPTIONS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unit_size": 4}, r"unit_size = 3, now 4"),
        ({"max_upscale": 3.0}, r"max_upscale = 2\.0, now 3\.0"),
        ({"dtype": "bfloat16"}, r"dtype = 'float32', now 'bfloat16'"),
        ({"caption_templates": ("{}",)}, r"caption_templates = \('{}', 'a {}'\), now \('{}',\)"),
        ({"buckets": (WIDE,)}, r"buckets = .*, now \(\(16, 32\),\)"),
        ({"text": {"max_length": 5}}, r"text_encoder = 'minilm-\w+', now 'minilm-\w+'"),
        ({"line": b"{}"}, r"source_digest = '\w+', now '\w+'"),
    ],
)
def test_a_folder_that_was_begun_with_other_settings_is_refused(prepared, data_fields, change, message):
    (name, value), cfg, options, lines = *change.items(), prepared.cfg, OPTIONS, prepared.source / "metadata.jsonl"
    before = lines.read_bytes()
    if name == "line":
        lines.write_bytes(before + value)
    elif name == "text":
        cfg = dataclasses.replace(cfg, text=dataclasses.replace(cfg.text, **value))
    elif hasattr(options, name):
        options = dataclasses.replace(options, **change)
    else:
        cfg = data_fields(cfg, **change)
    try:
        with pytest.raises(ConfigError, match=rf"was started with other settings: {message}.*use another --out"):
            prepare(cfg, str(prepared.source), str(prepared.out), options)
    finally:
        lines.write_bytes(before)


def test_two_preparations_in_one_folder_are_refused(prepared):
    with files.only_run(str(prepared.out)), pytest.raises(PreparationError, match="another preparation is running"):
        prepare(prepared.cfg, str(prepared.source), str(prepared.out), OPTIONS)


def test_a_folder_with_other_files_is_refused(prepared, tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(ConfigError, match=r"out = .*: contains other files, such as .*thesis\.txt"):
        prepare(prepared.cfg, str(prepared.source), str(tmp_path), OPTIONS)
    assert not (tmp_path / "prepared.json").exists()


@pytest.fixture(scope="module")
def pixel_config(latent_config) -> Config:
    """The run on latents without its autoencoder."""
    model = dataclasses.replace(latent_config.model, channels=3)
    return dataclasses.replace(latent_config, model=model, autoencoder=AutoencoderConfig())


def test_a_flow_of_pixels_is_prepared_as_pixels_with_the_states_of_its_captions(prepared, pixel_config, tmp_path):
    text = prepare(pixel_config, str(prepared.source), str(tmp_path), OPTIONS)
    assert "30 images (train 18, held_out 12)" in text
    data = opened(pixel_config, tmp_path)
    data.require_flow(pixel_config, None)
    found, latents = (all_samples(prepared.cfg, out) for out in (tmp_path, prepared.out))
    assert set(found["held_out"]) == set(latents["held_out"])
    bucket, sample = (found["train"] | found["held_out"])["good/09.png"]
    assert bucket == WIDE
    np.testing.assert_array_equal(sample.image, np.asarray(Image.new("RGB", (32, 16), "lime")))
    _, other = (latents["train"] | latents["held_out"])["good/09.png"]
    assert sample.captions == other.captions
    np.testing.assert_allclose(sample.pooled, other.pooled, rtol=1e-4, atol=1e-6)
    with Image.open(tmp_path / "contact_sheet.png") as sheet, Image.open(prepared.out / "contact_sheet.png") as pairs:
        assert sheet.height < pairs.height


def test_an_autoencoder_needs_no_captions(prepared, tmp_path):
    cfg = make_autoencoder_run(data={"buckets": (SQUARE, WIDE), "name": "", "prepared": str(tmp_path)})
    text = prepare(cfg, str(prepared.source), str(tmp_path), OPTIONS)
    assert "32 images" in text  # also those with blank captions and with none
    sources = PreparedData(cfg.data).sources("train")
    assert {sources[0][i].text_embeds for i in range(len(sources[0]))} == {None}
    assert not (tmp_path / "empty.msgpack").exists()


def test_nothing_usable_is_an_error_that_says_why(prepared, tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.png").write_bytes(png())
    write_lines(tmp_path / "source", [{"file_name": f"{name}.png", "text": "x"} for name in "bcd"])
    with pytest.raises(PreparationError, match=r"None of the records .*: 3 rejected \(100 %\): missing file 3"):
        prepare(prepared.cfg, str(tmp_path / "source"), str(tmp_path / "out"), OPTIONS)
    assert len((tmp_path / "out" / "rejects.jsonl").read_text().splitlines()) == 3


def test_damaged_states_of_no_text_are_made_again(prepared, tmp_path):
    shutil.copytree(prepared.out, tmp_path, dirs_exist_ok=True)
    whole = (tmp_path / "empty.msgpack").read_bytes()
    for content in (b"garbage", b"", None):
        path = tmp_path / "empty.msgpack"
        path.unlink() if content is None else path.write_bytes(content)
        prepare(prepared.cfg, str(prepared.source), str(tmp_path), OPTIONS)
        assert path.read_bytes() == whole


@pytest.mark.parametrize("field", ["source", "out"])
def test_a_file_system_without_a_driver_is_named_with_what_to_install(prepared, tmp_path, field):
    places = {"source": str(prepared.source), "out": str(tmp_path)} | {field: "nowhere://bucket/folder"}
    with pytest.raises(ConfigError, match=rf"{field} = 'nowhere://bucket/folder': nothing installed opens nowhere://"):
        prepare(prepared.cfg, places["source"], places["out"], OPTIONS)


def test_without_beam_it_says_what_to_install(prepared, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(PreparationError, match="pip install apache-beam"):
        prepare(prepared.cfg, str(prepared.source), str(tmp_path / "out"), OPTIONS)


@pytest.mark.parametrize(
    ("argument", "message"),
    [("--unit_sise=3", r"--unit_sise: .* Did you mean --unit_size"), ("--runer=x", "Did you mean --runner"),
     ("--frobnicate", r"--frobnicate: neither this command nor Beam has such a flag\. See --help")],
)  # fmt: skip
def test_a_flag_that_nobody_knows_is_refused(prepared, tmp_path, argument, message):
    with pytest.raises(ConfigError, match=message):
        prepare(prepared.cfg, str(prepared.source), str(tmp_path / "out"), OPTIONS, [argument], ["unit_size"])
    assert not (tmp_path / "out").exists()


class Attic(LocalFileSystem):
    """A file system that Beam alone can open: `attic://` is the root of the local disk."""

    @classmethod
    def scheme(cls) -> str:
        return "attic"

    def open(self, path, *args, **kwargs):
        return super().open(_below(path), *args, **kwargs)

    def create(self, path, *args, **kwargs):
        return super().create(_below(path), *args, **kwargs)

    def exists(self, path):
        return super().exists(_below(path))

    def match(self, patterns, *args, **kwargs):
        results = super().match([_below(pattern) for pattern in patterns], *args, **kwargs)
        for file in (file for result in results for file in result.metadata_list):
            file.path = f"attic:/{file.path}"
        return results


def _below(path: str) -> str:
    return path.removeprefix("attic:/")


def test_an_image_that_a_remote_folder_lacks_is_rejected(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    assert read_inside(f"attic:/{tmp_path}", "a.png") == png()
    with pytest.raises(RejectedError, match="missing file"):
        read_inside(f"attic:/{tmp_path}", "none.png")


def test_tars_are_read_and_data_written_wherever_beam_can(prepared, data_fields, tmp_path):
    (tmp_path / "tars").mkdir()
    for shard in range(2):
        with tarfile.open(tmp_path / "tars" / f"{shard:05d}.tar", "w") as tar:
            for i in range(15 * shard, 15 * shard + 15):
                for ending, content in (("png", png(20, 20, COLOURS[i % 10])), ("txt", f"card {i}".encode())):
                    (tmp_path / "member").write_bytes(content)
                    tar.add(tmp_path / "member", f"{i:09d}.{ending}")
    # 75 captions of 15 images in a unit: captions are encoded in the middle of it, and images several times before.
    cfg = data_fields(prepared.cfg, caption_templates=("{}", "a {}", "the {}", "this {}", "that {}"))
    options = dataclasses.replace(OPTIONS, unit_size=15)
    text = prepare(cfg, f"attic:/{tmp_path}/tars", f"attic:/{tmp_path}/out", options)
    assert "30 images" in text
    assert len(list((tmp_path / "out" / "manifests").iterdir())) == 2
    found = all_samples(cfg, tmp_path / "out")
    captions = {i: sample.captions[0] for samples in found.values() for i, (_, sample) in samples.items()}
    assert captions == {f"{i // 15:05d}.tar/{i:09d}": f"card {i}" for i in range(30)}
    with Image.open(tmp_path / "out" / "contact_sheet.png") as sheet:
        assert sheet.width > 100


def test_a_data_set_keeps_its_own_splits(prepared, tmp_path):
    cards = card_config(tmp_path / "sets").data
    buckets, options = prepared.cfg.data.buckets, dataclasses.replace(OPTIONS, unit_size=6)
    data = dataclasses.replace(cards, name="another", prepared=str(tmp_path / "out"), buckets=buckets)
    cfg = dataclasses.replace(prepared.cfg, data=data)
    text = prepare(cfg, "plain_cards", str(tmp_path / "out"), options)
    assert "20 images (train 16, held_out 4)" in text
    found = all_samples(cfg, tmp_path / "out")
    assert set(found["train"]) == {f"train[:80%]/{i}" for i in range(16)}
    assert set(found["held_out"]) == {f"train[80%:]/{i}" for i in range(4)}
    assert {sample.captions for _, sample in found["train"].values()} <= {(f"{c} card", f"a {c} card") for c in COLOURS}
    assert named_set(data) == dataclasses.replace(cards, buckets=None)  # not the set that the config names
    path = tmp_path / "out" / "prepared.json"
    old = json.loads(path.read_text())
    assert old.pop("source_set") == "plain_cards"
    path.write_text(json.dumps(old))
    assert "this run: 0 images" in prepare(cfg, "plain_cards", str(tmp_path / "out"), options)


@pytest.fixture
def small_disk() -> Iterator[Callable[[], None]]:
    """No file can grow beyond 100,000 bytes until the function is called: one of ArrayRecord has more."""
    before, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, before)


def test_a_run_stopped_by_a_full_disk_continues(prepared, tmp_path, small_disk):
    with pytest.raises(PreparationError, match=r"arrayrecord cannot be written: .*run the same command: it continues"):
        prepare(prepared.cfg, str(prepared.source), str(tmp_path), OPTIONS)
    assert not files_below(tmp_path, "data", "manifests")
    small_disk()
    prepare(prepared.cfg, str(prepared.source), str(tmp_path), OPTIONS)
    assert committed(tmp_path) == committed(prepared.out)
