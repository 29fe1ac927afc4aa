import errno
import os
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from nami_jax.config import ConfigError, TextConfig
from nami_jax.text.caption_table import TextTable, encode_captions, table_key
from nami_jax.text.encoders import TextEncoder, load_text_encoder
from tests.support.text_release import text_config, write_release

CAPTIONS = ["red apple", "green apple", "red apple", "smiling face"]
CFG = TextConfig(max_length=8)


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return load_text_encoder(TextConfig(max_length=8))


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "not" / "made" / "yet"
    encode_captions(CFG, CAPTIONS, folder)
    return folder


@pytest.fixture(scope="module")
def whole_file(cache) -> Path:
    return cache / f"text-{table_key(CFG, ['', 'red apple', 'green apple', 'smiling face'])}.npy"


def test_table_returns_what_the_encoder_computes(encoder, cache):
    table = encode_captions(CFG, CAPTIONS, cache)
    asked = ["smiling face", "red apple", "smiling face"]
    found, exact = table.lookup(asked), encoder(asked)
    assert found.embeds.shape == (3, 8, 384)
    assert found.embeds.dtype == found.pooled.dtype == np.float32
    # float16 keeps 11 bits: half of its last one is 2**-11.
    np.testing.assert_allclose(found.embeds, exact.embeds, rtol=2**-11, atol=1e-5)
    np.testing.assert_allclose(found.pooled, exact.pooled, rtol=1e-5, atol=1e-6)


def test_table_always_holds_the_empty_caption(encoder, cache):
    empty, exact = encode_captions(CFG, CAPTIONS, cache).empty, encoder([""])
    assert empty.embeds.shape == (1, 8, 384)
    np.testing.assert_allclose(empty.pooled, exact.pooled, rtol=1e-5, atol=1e-6)
    assert empty.embeds[0, :2].any(axis=1).all()  # [CLS] and [SEP]
    assert not empty.embeds[0, 2:].any()


def test_caption_that_was_not_encoded_is_refused(cache):
    with pytest.raises(LookupError, match="'blue fish' is not among the 4 encoded ones"):
        encode_captions(CFG, CAPTIONS, cache).lookup(["red apple", "blue fish"])


def test_cached_captions_need_no_encoder(cache, monkeypatch):
    monkeypatch.setattr(sys, "path", [])  # the weights can no longer be found
    again = encode_captions(CFG, [*CAPTIONS[::-1], ""], cache)
    assert again.lookup(["red apple"]).embeds.any()
    with pytest.raises(ModuleNotFoundError):
        encode_captions(CFG, [*CAPTIONS, "blue fish"], cache)


def test_key_changes_with_every_setting_and_with_the_captions():
    variants = [
        (TextConfig(max_length=8), ["", "a", "b"]),
        (TextConfig(max_length=9), ["", "a", "b"]),
        (TextConfig(max_length=8, mask_padding=False), ["", "a", "b"]),
        (TextConfig(max_length=8), ["", "a", "c"]),
        (TextConfig(max_length=8), ["", "a"]),
        (TextConfig(max_length=8), ["", "a, b"]),
    ]
    assert len({table_key(cfg, captions) for cfg, captions in variants}) == len(variants)


def test_key_of_minilm_does_not_change_with_the_settings_of_another_encoder():
    captions = ["", "a", "b"]
    assert table_key(TextConfig(folder="elsewhere", pooled_length=12), captions) == table_key(TextConfig(), captions)


def test_key_changes_with_the_type_of_computation():
    captions = ["", "a", "b"]
    assert table_key(TextConfig(), captions, jnp.bfloat16) != table_key(TextConfig(), captions)
    assert table_key(TextConfig(), captions, "float32") == table_key(TextConfig(), captions)


def test_table_of_the_released_encoder_holds_its_states(tmp_path):
    cfg = text_config(write_release(tmp_path / "release"))
    table = encode_captions(cfg, CAPTIONS, tmp_path / "text", dtype=jnp.bfloat16)
    found, exact = table.lookup(["red apple", ""]), load_text_encoder(cfg)(["red apple", ""])
    assert (found.embeds.shape, found.pooled.shape) == ((2, 16, 24), (2, 16))
    for some, all_ in zip(found, exact, strict=True):  # bfloat16, and float16 on disk, against float32
        assert 1e-4 < np.linalg.norm(some - all_) / np.linalg.norm(all_) <= 2e-2
    assert encode_captions(cfg, CAPTIONS, tmp_path / "text", dtype=jnp.bfloat16).empty.embeds.any()
    assert len(list((tmp_path / "text").iterdir())) == 1


def test_changed_setting_is_encoded_afresh_beside_the_old(cache):
    kept = encode_captions(TextConfig(max_length=8, mask_padding=False), CAPTIONS, cache).empty
    assert kept.embeds[0, 2:].any()
    assert not encode_captions(CFG, CAPTIONS, cache).empty.embeds[0, 2:].any()


@pytest.mark.parametrize("left", [0, 100, 5000])  # bytes: nothing, half a header, header and some rows
def test_damaged_file_is_never_read(whole_file, tmp_path, left, monkeypatch, caplog):
    (tmp_path / whole_file.name).write_bytes(whole_file.read_bytes()[:left])
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ModuleNotFoundError):  # it looks for the encoder rather than use what is there
        encode_captions(CFG, CAPTIONS, tmp_path)
    assert "text states on disk are damaged" in caplog.text


def damaged(whole_file, folder, how):
    """Copies the file, and changes its rows in place."""
    (folder / whole_file.name).write_bytes(whole_file.read_bytes())
    how(np.lib.format.open_memmap(folder / whole_file.name, mode="r+"))


def nan(rows):
    rows["pooled"][2, 5] = np.nan


def least_bit(rows):
    rows["embeds"][1].view(np.uint16)[0, 3] ^= 1


def swapped(rows):
    rows[[1, 2]] = rows[[2, 1]]


@pytest.mark.parametrize("how", [nan, least_bit, swapped])
def test_states_that_are_not_what_was_written_are_encoded_again(whole_file, tmp_path, how, caplog):
    damaged(whole_file, tmp_path, how)
    assert (tmp_path / whole_file.name).read_bytes() != whole_file.read_bytes()
    encode_captions(CFG, CAPTIONS, tmp_path)
    assert (tmp_path / whole_file.name).read_bytes() == whole_file.read_bytes()
    assert f"{whole_file.name}: the states of " in caplog.text
    assert "Encoding the captions again" in caplog.text


def test_states_of_an_earlier_version_are_encoded_again(whole_file, tmp_path, caplog):
    rows = np.load(whole_file)
    np.save(tmp_path / whole_file.name, rows[["embeds", "pooled"]].copy())
    encode_captions(CFG, CAPTIONS, tmp_path)
    assert (tmp_path / whole_file.name).read_bytes() == whole_file.read_bytes()
    assert "of an earlier version" in caplog.text


def test_damaged_file_is_replaced(whole_file, tmp_path):
    (tmp_path / whole_file.name).write_bytes(whole_file.read_bytes()[:5000])
    encode_captions(CFG, CAPTIONS, tmp_path)
    [path] = tmp_path.iterdir()
    assert path.read_bytes() == whole_file.read_bytes()


def test_file_of_an_interrupted_run_is_never_read(whole_file, tmp_path, monkeypatch):
    (tmp_path / f"{whole_file.name}.0123.tmp").write_bytes(whole_file.read_bytes())
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ModuleNotFoundError):
        encode_captions(CFG, CAPTIONS, tmp_path)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot take room in advance")
def test_states_that_do_not_fit_on_the_disk_are_refused_before_encoding(tmp_path, monkeypatch):
    asked = []

    def full(file: int, offset: int, length: int) -> None:
        asked.append((offset, length, os.fstat(file).st_size))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ConfigError, match=r"0.00 GB of text states do not fit: No space .*another data.data_dir"):
        encode_captions(CFG, CAPTIONS, tmp_path)
    [(offset, length, size)] = asked
    assert (offset, length) == (0, size)
    assert size > 4 * 8 * 384 * 2  # all rows, and a header
    assert not list(tmp_path.iterdir())


def test_encoding_at_the_same_time_leaves_one_whole_file(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        tables = list(pool.map(lambda _: encode_captions(CFG, CAPTIONS, tmp_path), range(2)))
    assert len(list(tmp_path.iterdir())) == 1
    np.testing.assert_array_equal(tables[0].lookup(CAPTIONS).embeds, tables[1].lookup(CAPTIONS).embeds)


def test_table_is_pickled_by_its_path_not_its_contents(cache):
    table = encode_captions(CFG, CAPTIONS, cache)
    pickled = pickle.dumps(table)
    assert len(pickled) < 1000
    np.testing.assert_array_equal(pickle.loads(pickled).lookup(CAPTIONS).embeds, table.lookup(CAPTIONS).embeds)


def test_table_of_other_captions_is_refused(tmp_path):
    np.save(tmp_path / "two.npy", np.zeros(2))
    with pytest.raises(ValueError, match="not one row for each of 3 captions"):
        TextTable(tmp_path / "two.npy", ["", "a", "b"])
