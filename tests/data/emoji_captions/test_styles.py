import itertools

from nami_jax.data.emoji_captions import captions
from nami_jax.data.emoji_captions.styles import CAPTIONS, NOTO, OPENMOJI, STYLES, TWEMOJI, styled_captions

ALL = (*STYLES, OPENMOJI)


def test_no_style_s_name_is_in_another_s():
    for style, other in itertools.permutations(ALL, 2):
        assert style.name not in other.name


def test_the_first_caption_names_concept_and_style():
    assert styled_captions(("red apple", "apple", "a red apple"), NOTO, "🍎")[0] == "a red apple, noto style"
    assert styled_captions(("grapes",), TWEMOJI, "🍇")[0] == "grapes, twemoji style"
    assert styled_captions(("flag of France",), TWEMOJI, "🇫🇷", country=True)[0] == "flag of France, twemoji style"


def test_captions_vary_from_picture_to_picture_and_stay_the_same_for_each():
    names = ("red apple", "apple", "a red apple")
    drawn = [styled_captions(names, style, key) for style in ALL for key in "abcdefgh"]
    patterns = {caption.replace(style.name, "S") for style in ALL for key in "abcdefgh"
                for caption in styled_captions(names, style, key)[1:]}  # fmt: skip
    assert all(len(set(found)) == CAPTIONS for found in drawn)
    assert {"S emoji of a red apple", "S apple", "apple, S style"} <= patterns
    assert drawn == [styled_captions(names, style, key) for style in ALL for key in "abcdefgh"]


def test_every_caption_names_its_style_and_belongs_to_one_picture(entries):
    owner = {}
    for entry in entries[::5]:
        for style in ALL:
            for caption in styled_captions(entry.captions, style, entry.character):
                assert [other.name for other in ALL if other.name in caption] == [style.name], caption
                assert len(caption.split()) <= 14
                assert owner.setdefault(captions.spelling_key(caption), (entry, style)) == (entry, style)


def test_a_long_name_has_captions_too():
    names = ("raised hand with part between middle and ring fingers",)
    assert len(styled_captions(names, NOTO, "🖖")) == CAPTIONS
