import dataclasses
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import ImageColor

from nami_jax.config import EvaluationConfig
from nami_jax.evaluation.real_pictures import open_real, real_features
from tests.support.styled_cards import StyledCards, styled_data


@pytest.fixture
def pictures(styled):
    return open_real(styled, "held_out", EvaluationConfig(), None)


def test_pictures_come_with_captions_labels_and_places(pictures):
    assert len(pictures) == 8
    assert pictures.places == list(range(8))
    assert set(pictures.labels) == {"concept", "style"}
    for captions, colour, style in zip(pictures.captions, *pictures.labels.values(), strict=True):
        assert captions == (f"a {colour} card, {style}", f"{style} & {colour}")
    assert pictures.pixels([0, 3]).shape == (2, 16, 16, 3)
    images = pictures.model_images([0])
    np.testing.assert_allclose((images + 1) * 127.5, pictures.pixels([0]), atol=1e-4)


def test_of_many_pictures_some_are_drawn_by_seed(styled):
    some, again, other = (open_real(styled, "train", EvaluationConfig(references=5, seed=s), None) for s in (0, 0, 1))
    assert len(some) == 5
    assert some.fingerprint == again.fingerprint != other.fingerprint


class BrokenCards(StyledCards):
    """The cards with one picture of each split cut short."""

    def _generate_examples(self, held_out: bool) -> Iterator[tuple[str, dict[str, Any]]]:
        for i, (key, example) in enumerate(super()._generate_examples(held_out)):
            yield key, example if i != 3 else example | {"image": io.BytesIO(example["image"].getvalue()[:40])}


def test_a_picture_that_cannot_be_decoded_is_left_out_with_its_caption_and_counted(tmp_path, caplog):
    data = dataclasses.replace(styled_data(tmp_path), name="broken_cards")
    pictures = open_real(data, "held_out", EvaluationConfig(), None)
    assert len(pictures) == len(pictures.digests) == len(pictures.places) == 7
    assert "1 of 8 pictures of held_out are unreadable" in caplog.text
    for i, colour in enumerate(pictures.labels["concept"]):
        assert pictures.pixels([i])[0, 8, 8].tolist() == list(ImageColor.getrgb(colour))
        assert colour in pictures.captions[i][0]


def test_features_are_computed_once_for_the_same_pictures_and_again_where_they_are_damaged(pictures, cells, tmp_path):
    found = real_features(pictures, cells, tmp_path, False)
    np.testing.assert_array_equal(found, cells(pictures.pixels(range(8))))
    (file,) = tmp_path.iterdir()
    assert file.name.startswith("cells-")
    np.save(file, found + 1)
    np.testing.assert_array_equal(real_features(pictures, cells, tmp_path, False), found + 1)  # as kept
    file.write_bytes(file.read_bytes()[:-7])
    np.testing.assert_array_equal(real_features(pictures, cells, tmp_path, False), found)


def test_other_pictures_have_features_of_their_own(pictures, styled, cells, tmp_path):
    train = open_real(styled, "train", EvaluationConfig(), None)
    assert len(real_features(train, cells, tmp_path, False)) == 16
    real_features(pictures, cells, tmp_path, False)
    assert len(list(tmp_path.iterdir())) == 2


def test_another_network_of_the_same_name_and_size_has_features_of_its_own(pictures, cells, tmp_path):
    doubled = dataclasses.replace(cells, digest="doubled", network=lambda images: 2 * cells.network(images))
    found = [real_features(pictures, network, tmp_path, False) for network in (cells, doubled, cells)]
    np.testing.assert_array_equal(found[1], 2 * found[0])
    np.testing.assert_array_equal(found[2], found[0])
