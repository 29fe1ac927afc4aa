import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tokenizers
from PIL import Image

from nami_jax.config import ConfigError
from nami_jax.evaluation.features import BATCH, ClipNetwork, FeatureNetwork, crop, load_features, resize
from nami_jax.weights import WeightsError, save_tensors
from tests.support.golden_networks import golden_features

ENDS = ("<|startoftext|>", "<|endoftext|>")


def write_release(folder: Path, name: str) -> Path:
    """Writes a golden network in the Hugging Face layout."""
    golden = golden_features(name)
    save_tensors(golden.weights, folder, "model")
    (folder / "config.json").write_text(json.dumps(golden.config))
    vocabulary = {token: number for number, token in enumerate("abcdefghijklmnopqrstuvwxyz ,")}
    model = tokenizers.models.BPE(vocabulary | {ENDS[0]: 28, ENDS[1]: 29}, [], unk_token=ENDS[1])
    tokenizers.Tokenizer(model).save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def clip_release(tmp_path_factory) -> Path:
    return write_release(tmp_path_factory.mktemp("clip"), "clip")


@pytest.fixture
def release(clip_release, tmp_path) -> Path:
    return Path(shutil.copytree(clip_release, tmp_path / "copy"))


@pytest.fixture(scope="module")
def efficientnet() -> FeatureNetwork:
    return load_features("efficientnet_lite0")


@pytest.fixture(scope="module")
def clip(clip_release) -> ClipNetwork:
    network = load_features("clip", str(clip_release))
    assert isinstance(network, ClipNetwork)
    return network


def shapes(side: int) -> np.ndarray:
    """Returns pictures of a red disc, blue stripes, a black chequer and a green ring, on white."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    radius = np.hypot(x - 0.5, y - 0.5)
    masks = [radius < 0.4, y % 0.25 < 0.125, (y % 0.5 < 0.25) ^ (x % 0.5 < 0.25), abs(radius - 0.35) < 0.1]
    colours = [(220, 30, 30), (30, 60, 220), (0, 0, 0), (30, 160, 60)]
    drawn = [np.where(mask[..., None], colour, 255) for mask, colour in zip(masks, colours, strict=True)]
    return np.stack(drawn).astype(np.uint8)


def test_features_know_a_picture_at_another_size(efficientnet):
    large, small = efficientnet(shapes(96)), efficientnet(shapes(64))
    assert (large.shape, large.dtype, efficientnet.size) == ((4, 1280), np.float32, 1280)
    distance = np.linalg.norm(large[:, None] - small[None], axis=-1)
    assert distance.argmin(axis=1).tolist() == [0, 1, 2, 3]
    assert (np.diag(distance) < 0.6 * (distance + 99 * np.eye(4)).min(axis=1)).all()


def test_batches_do_not_change_the_features_nor_their_order(clip):
    images = np.random.default_rng(0).integers(0, 256, (BATCH + 3, 24, 24, 3), dtype=np.uint8)
    features = clip(images)
    assert features.shape == (BATCH + 3, clip.size) == (BATCH + 3, 12)
    np.testing.assert_allclose(clip(images[-3:]), features[-3:], rtol=1e-5, atol=1e-6)
    assert clip(images[:0]).shape == (0, 12)


def test_stored_vectors_come_out(clip):
    vectors = golden_features("clip").vectors
    found = clip(vectors["images"])
    assert np.abs(found - vectors["image_features"]).max() <= 1e-5 * np.abs(vectors["image_features"]).max()


def test_products_and_convolutions_are_exact_whatever_a_platform_does_by_default(clip, efficientnet):
    tokens = np.zeros((2, 8), np.int32)
    for network, arrays in (
        (clip.network, [np.zeros((1, 24, 24, 3), np.uint8)]),
        (clip.text_network, [tokens, tokens + 1]),
        (efficientnet.network, [np.zeros((1, 32, 32, 3), np.uint8)]),
    ):
        traced = str(jax.make_jaxpr(network)(*arrays))
        assert "Precision.HIGHEST" in traced
        assert "precision=None" not in traced


def test_texts_are_cut_into_tokens_between_the_special_ones(clip):
    ids = clip.tokenizer(["dh"]).ids
    assert ids.tolist() == [[28, 3, 7, 29, 0, 0, 0, 0]]
    expected = golden_features("clip").vectors["text_features"][:1]  # of the same tokens
    found = clip.text(["dh", "a, b"] * BATCH)
    assert found.shape == (2 * BATCH, 12)
    assert np.abs(found[1::2] - expected).min(axis=1).max() > 1e-3
    assert np.abs(found[::2] - expected).max() <= 1e-5 * np.abs(expected).max()


def test_dinov2_is_read_from_its_folder(tmp_path):
    network = load_features("dinov2", str(write_release(tmp_path, "dinov2")))
    assert network(np.zeros((1, 20, 30, 3), np.uint8)).shape == (1, network.size) == (1, 16)


def test_the_digest_changes_with_a_weight_and_with_the_activation_and_not_with_the_place(clip, release):
    assert load_features("clip", str(release)).digest == clip.digest
    config = golden_features("clip").config
    towers = {tower: config[tower] | {"hidden_act": "gelu"} for tower in ("text_config", "vision_config")}
    (release / "config.json").write_text(json.dumps(config | towers))
    other_activation = load_features("clip", str(release)).digest
    (release / "config.json").write_text(json.dumps(config))
    weights = golden_features("clip").weights
    save_tensors(weights | {"logit_scale": weights["logit_scale"] + 1}, release, "model")
    assert len({load_features("clip", str(release)).digest, other_activation, clip.digest}) == 3


def test_resizing_antialiases_and_cropping_keeps_the_middle():
    stripes = np.zeros((1, 64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.ptp(resize(stripes, 16, 16)[0, 4:-4].astype(int)) <= 2  # points would be all black or all white
    wide = np.zeros((1, 4, 12, 3), np.uint8)
    wide[:, :, 4:8] = 200
    np.testing.assert_array_equal(crop(wide, 4), np.full((1, 4, 4, 3), 200))
    exact = Image.fromarray(stripes[0]).resize((20, 30), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(resize(stripes, 30, 20)[0], np.asarray(exact))


@pytest.mark.parametrize(
    "images", [np.zeros((2, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8), np.zeros((1, 0, 8, 3), np.uint8)]
)
def test_other_arrays_are_refused(clip, images):
    with pytest.raises(ValueError, match=r"need uint8, \(B, H, W, 3\)"):
        clip(images)


@pytest.mark.parametrize(
    ("name", "folder", "message"),
    [
        ("inception", None, r"name = 'inception': is no feature network\. Use efficientnet_lite0 or inception_v3 or"),
        ("efficientnet_lite0", "somewhere", r"folder = 'somewhere': efficientnet_lite0's weights come with a package"),
        ("dinov2", None, r"folder = None: dinov2's weights are not part of this package\. Give the folder"),
        ("clip", "/nowhere", r"/nowhere/config\.json cannot be read: No such file"),
    ],
)
def test_names_and_folders_that_cannot_work_are_refused(name, folder, message):
    with pytest.raises(ConfigError, match=message):
        load_features(name, folder)


def test_missing_and_damaged_files_of_a_folder_are_named(release):
    (release / "model.safetensors").write_bytes((release / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"model\.safetensors is damaged"):
        load_features("clip", str(release))
    (release / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"\*\.safetensors not found"):
        load_features("clip", str(release))
    (release / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"tokenizer\.json cannot be read"):
        load_features("clip", str(release))
    (release / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json is damaged"):
        load_features("clip", str(release))


def test_a_tokeniser_of_another_release_is_refused(release):
    vocabulary = {f"w{number}": number for number in range(40)}
    model = tokenizers.models.BPE(vocabulary | {ENDS[0]: 40, ENDS[1]: 41}, [], unk_token=ENDS[1])
    tokenizers.Tokenizer(model).save(str(release / "tokenizer.json"))
    with pytest.raises(ConfigError, match=r"vocab_size = 30: tokenizer\.json has ids up to 41"):
        load_features("clip", str(release))


def test_inceptions_file_is_found_and_checked(tmp_path):
    with pytest.raises(WeightsError, match=r"must hold one file of weights .* holds none\. Name the file"):
        load_features("inception_v3", str(tmp_path))
    (tmp_path / "pt_inception-2015-12-05-6726825d.pth").write_bytes(b"<html>")
    with pytest.raises(WeightsError, match=r"6726825d\.pth cannot be read as tensors .* or use a safetensors file"):
        load_features("inception_v3", str(tmp_path))
    save_tensors({"w": np.zeros(3, np.float32)}, tmp_path, "other")
    with pytest.raises(WeightsError, match=r"holds other\.safetensors, pt_inception-2015-12-05-6726825d\.pth"):
        load_features("inception_v3", str(tmp_path))
    with pytest.raises(WeightsError, match=r"missing     Conv2d_1a_3x3\.conv\.weight \(32, 3, 3, 3\)"):
        load_features("inception_v3", str(tmp_path / "other.safetensors"))
