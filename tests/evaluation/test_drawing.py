import numpy as np
import pytest

from nami_jax.config import ConfigError
from nami_jax.evaluation.drawing import KeptPictures, draw_all

CAPTIONS = ["a", "b", "c", "d", "e"]


class Drawing:
    """Draws pictures whose one colour tells caption and seed, and counts them."""

    def __init__(self):
        self.drawn = []

    def __call__(self, numbers: np.ndarray, seed: int) -> np.ndarray:
        self.drawn.append((seed, numbers.tolist()))
        return np.broadcast_to((10 * seed + numbers)[:, None, None, None], (len(numbers), 4, 4, 3)).astype(np.uint8)


@pytest.mark.parametrize("size", [1, 2, 32])
def test_each_caption_is_drawn_with_each_seed_whatever_the_batch(size):
    found = draw_all(Drawing(), 5, [3, 4], size)
    assert found.shape == (2, 5, 4, 4, 3)
    assert found[:, :, 0, 0, 0].tolist() == [[30, 31, 32, 33, 34], [40, 41, 42, 43, 44]]


def test_a_second_call_draws_what_is_missing_or_damaged_alone(tmp_path):
    first, second = Drawing(), Drawing()
    kept = KeptPictures(tmp_path, {"steps": (2, 2)}, CAPTIONS)
    whole = draw_all(first, 5, [0], 4, kept)
    kept.path(0, 1).unlink()
    kept.path(0, 4).write_bytes(kept.path(0, 4).read_bytes()[:40])
    again = KeptPictures(tmp_path, {"steps": [2, 2]}, CAPTIONS)
    np.testing.assert_array_equal(draw_all(second, 5, [0, 1], 4, again)[0], whole[0])
    assert second.drawn[0] == (0, [1, 4])
    assert [seed for seed, _ in second.drawn] == [0, 1, 1]


def test_pictures_are_kept_as_soon_as_a_batch_is_drawn(tmp_path):
    kept, drawing = KeptPictures(tmp_path, {}, CAPTIONS), Drawing()

    def stopping(numbers: np.ndarray, seed: int) -> np.ndarray:
        if drawing.drawn:
            raise KeyboardInterrupt
        return drawing(numbers, seed)

    with pytest.raises(KeyboardInterrupt):
        draw_all(stopping, 5, [0], 2, kept)
    assert [kept.load(0, i) is not None for i in range(5)] == [True, True, False, False, False]


@pytest.mark.parametrize(("about", "captions"), [({"steps": [3, 2]}, CAPTIONS), ({"steps": [2, 2]}, CAPTIONS[::-1])])
def test_a_folder_of_other_pictures_is_refused(tmp_path, about, captions):
    KeptPictures(tmp_path, {"steps": [2, 2]}, CAPTIONS)
    with pytest.raises(ConfigError, match=r"it holds pictures made with (steps|captions) = .* Set another --out"):
        KeptPictures(tmp_path, about, captions)


def test_a_damaged_list_of_what_was_made_is_named(tmp_path):
    KeptPictures(tmp_path, {}, CAPTIONS)
    (tmp_path / "samples.json").write_text("{")
    with pytest.raises(ConfigError, match=r"samples.json is damaged"):
        KeptPictures(tmp_path, {}, CAPTIONS)
