import collections

import numpy as np

from nami_jax.data.emoji_captions import styled_pictures
from nami_jax.data.emoji_captions.styles import STYLES
from tests.data.emoji_captions.conftest import INVISIBLE, SAME


def test_every_style_that_draws_a_concept_has_a_picture_of_it(pictures, food):
    by_style = collections.Counter(picture.style.name for picture in pictures)
    assert by_style == {"twemoji": 100, "glossy fluent": 100, "flat fluent": 100, "noto": 98}
    assert [p.concept.name for p in pictures] == sorted(p.concept.name for p in pictures)


def test_what_does_not_show_is_left_out(pictures):
    drawn = [p.style.name for p in pictures if p.concept.name == INVISIBLE]
    assert drawn == ["twemoji", "glossy fluent", "flat fluent"]
    white = np.full((72, 72, 4), 255, np.uint8)
    black = np.zeros_like(white)  # transparent
    assert not styled_pictures.shows(white)
    assert not styled_pictures.shows(black)
    white[26:46, 26:46, 0] = 0
    assert styled_pictures.shows(white)


def test_of_concepts_that_a_style_draws_alike_one_has_the_picture_and_both_names(pictures, by_name):
    noto = {p.concept.name: p for p in pictures if p.style.name == "noto"}
    (kept,) = set(SAME) & noto.keys()
    assert kept == "bagel"
    assert {"bagel", "baguette bread"} <= set(noto["bagel"].drawn.captions)
    assert noto["bagel"].characters == tuple(by_name[name].character for name in SAME)
    assert len([p for p in pictures if p.concept.name == "baguette bread"]) == 3


def test_concepts_that_one_style_draws_are_left_out(installed, entries, by_name):
    found = styled_pictures.pictures([by_name["T-Rex"], by_name["banana"]], STYLES)
    assert {p.concept.name for p in found} == {"banana"}
