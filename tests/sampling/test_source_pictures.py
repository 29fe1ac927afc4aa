import numpy as np
import pytest
from PIL import Image

from nami_jax.config import ConfigError
from nami_jax.sampling.source_pictures import read_sources
from tests.support.pipelines import small_pipeline, states

SIZE = (16, 16)


def picture(seed: int = 0, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def pipe():
    return small_pipeline()


def test_a_picture_is_an_image_a_path_or_an_array_of_levels_or_numbers(tmp_path):
    levels = picture()
    Image.fromarray(levels).save(tmp_path / "x.png")
    for given in (levels, Image.fromarray(levels), levels / 255, tmp_path / "x.png", str(tmp_path / "x.png")):
        np.testing.assert_array_equal(read_sources(given, None, None, 1, SIZE).levels[0], levels)


def test_a_picture_of_another_size_covers_the_wanted_one_and_is_cropped_evenly():
    wide = np.zeros((32, 64, 3), np.uint8)
    wide[:, 16:48] = 255
    assert read_sources(wide, None, None, 1, SIZE).levels.min() > 230  # Lanczos sees a little across the edge


def test_transparent_parts_are_white():
    clear = Image.new("RGBA", SIZE, (255, 0, 0, 0))
    assert (read_sources(clear, None, None, 1, SIZE).levels == 255).all()


def test_a_mask_is_true_white_or_above_half(tmp_path):
    half = np.zeros(SIZE, bool)
    half[:8] = True
    Image.fromarray(half).save(tmp_path / "m.png")
    for given in (half, half * 0.6, half * np.uint8(255), Image.fromarray(half), tmp_path / "m.png"):
        drawn = read_sources(picture(), given, None, 1, SIZE).drawn
        assert drawn is not None
        np.testing.assert_array_equal(drawn[0, :, :, 0], half)


@pytest.mark.parametrize(
    ("image", "mask", "strength", "message"),
    [
        ("nowhere.png", None, None, r"image = 'nowhere\.png': .*No such file"),
        (np.zeros((16, 16)), None, None, r"image = \(16, 16\): has that shape"),
        (np.full((16, 16, 3), 7.0), None, None, r"image = 'an array of float64': is no picture"),
        (None, None, None, r"image = 'an array of object': is no picture"),
        ([picture()] * 3, None, None, r"image = '3 pictures': there are 2 prompts\. Pass one, or one for each"),
        (picture(), np.zeros(SIZE), None, r"mask = 'of 16x16': is black everywhere"),
        (picture(), picture(), None, r"mask = \(16, 16, 3\): has that shape"),
        (picture(), None, 0, r"strength = 0: must be above 0 and at most 1"),
        (picture(), None, 1.5, r"strength = 1\.5"),
        (picture(), None, "0.5", r"strength = '0\.5'"),
    ],
)
def test_what_is_no_picture_no_mask_or_no_strength_is_refused(image, mask, strength, message):
    with pytest.raises(ConfigError, match=message):
        read_sources(image, mask, strength, 2, SIZE)


def test_less_strength_stays_closer_to_the_picture(pipe):
    source = picture()
    drawn = {
        strength: pipe(**states(), image=source, strength=strength, output_type="np")[0]
        for strength in (1.0, 0.39, 0.2)
    }
    distances = [float(np.abs(x - source / 255).mean()) for x in drawn.values()]
    assert distances == sorted(distances, reverse=True)
    np.testing.assert_array_equal(drawn[1.0], pipe(**states(), output_type="np")[0])  # nothing is left of it


def test_too_little_strength_for_the_steps_is_refused(pipe):
    with pytest.raises(
        ConfigError, match=r"strength = 0\.01: no step begins as late as that. Set at least 0\.193, or more steps"
    ):
        pipe(**states(), image=picture(), strength=0.01)


def test_stages_before_the_strength_are_not_run(pipe):
    stages = pipe(**states(), image=picture(), strength=0.75, return_stages=True, output_type="latent")
    assert [stage.shape[1] for stage in stages] == [8, 16]


def test_outside_a_mask_every_pixel_is_the_picture_s(pipe):
    source, mask = picture(), np.zeros(SIZE, bool)
    mask[4:10, 3:9] = True
    for settings in ({}, {"strength": 0.5}, {"solver": "ab2"}, {"callback_on_step_end": lambda *_: None}):
        drawn = np.asarray(pipe(**states(), image=source, mask=mask, **settings)[0])
        np.testing.assert_array_equal(drawn[~mask], source[~mask])
        assert (np.abs(drawn[mask].astype(int) - source[mask]) > 3).mean() > 0.5, settings


def test_a_mask_holds_the_latents_themselves(pipe):
    source, mask = picture(), np.zeros(SIZE, bool)
    mask[8:] = True
    latents = pipe(**states(), image=source, mask=mask, output_type="latent")[0]
    np.testing.assert_array_equal(latents[:8], (source / np.float32(127.5) - 1)[:8].astype(np.float32))


def test_each_prompt_may_have_a_picture_and_a_mask_of_its_own(pipe):
    sources, masks = [picture(1), picture(2)], np.zeros((2, *SIZE), bool)
    masks[0, :8], masks[1, 8:] = True, True
    drawn = pipe(**states(2), image=sources, mask=list(masks), num_images=2)
    one = pipe(**states(2), image=sources[0], mask=list(masks), num_images=2)
    for i, (each, of_one) in enumerate(zip(drawn, one, strict=True)):
        outside = ~masks[i // 2]
        np.testing.assert_array_equal(np.asarray(each)[outside], sources[i // 2][outside])
        np.testing.assert_array_equal(np.asarray(of_one)[outside], sources[0][outside])
