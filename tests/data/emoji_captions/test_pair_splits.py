import collections
import dataclasses

import pytest

from configs import styles as config
from nami_jax.config import Config
from nami_jax.data.emoji_captions import icon_sets, near_duplicates, styled_pictures
from nami_jax.data.emoji_captions.pair_splits import (
    HELD_OUT,
    HELD_OUT_PAIRS,
    HELD_OUT_PAIRS_SHARE,
    SPLITS,
    TRAIN,
    split_pictures,
)
from nami_jax.data.emoji_captions.styled_pictures import StyledPicture
from nami_jax.data.emoji_captions.styles import STYLES
from nami_jax.text.encoder_files import minilm_folder
from nami_jax.text.tokens import bert_tokenizer
from tests.data.emoji_captions.conftest import LIKE_TRAINED, NEARLY


@pytest.fixture(scope="session")
def splits(pictures: list[StyledPicture], groups: dict[str, str]) -> list[str]:
    return split_pictures(pictures, groups)


def require_rules(pictures: list[StyledPicture], splits: list[str], groups: dict[str, str]) -> None:
    """Checks what holds for every catalogue."""
    in_training = collections.defaultdict(list)
    for i, (picture, split) in enumerate(zip(pictures, splits, strict=True)):
        if split == TRAIN:
            in_training[picture.concept.character].append(i)
    near = {(int(i), int(j)) for i, j in near_duplicates.near_pictures([p.drawn.thumbnail for p in pictures])}
    for i, j in near:
        assert (splits[i] == TRAIN) == (splits[j] == TRAIN), f"{pictures[i]} is nearly {pictures[j]}"
    sides = collections.defaultdict(set)
    for picture, split in zip(pictures, splits, strict=True):
        character = picture.concept.character
        sides[groups[character], picture.style.name].add(split)
        if split == HELD_OUT:
            assert groups[character] in near_duplicates.held_out_groups(groups)
            assert not in_training[character]
        if split == HELD_OUT_PAIRS:  # seen in two styles that do not draw the same
            seen = in_training[character]
            assert any((i, j) not in near for i in seen for j in seen if i < j)
    assert all(len(found) == 1 for found in sides.values())  # near-duplicate concepts, in each style


def test_pairs_are_held_out_of_concepts_that_training_sees_in_two_other_styles(pictures, splits, groups):
    require_rules(pictures, splits, groups)


def test_of_small_units_about_the_share_is_held_out(splits):
    count = collections.Counter(splits)
    share = count[HELD_OUT_PAIRS] / (count[HELD_OUT_PAIRS] + count[TRAIN])
    assert 0.6 * HELD_OUT_PAIRS_SHARE < share < 1.4 * HELD_OUT_PAIRS_SHARE


def test_held_out_concepts_are_twemoji_s_but_for_one_drawn_as_a_trained_one(pictures, splits, groups):
    unseen = {p.concept.name for p, split in zip(pictures, splits, strict=True) if split == HELD_OUT}
    chosen = near_duplicates.held_out_groups(groups)
    alone = {p.concept.name for p in pictures if groups[p.concept.character] in chosen}
    assert alone - unseen == {LIKE_TRAINED[0]}
    assert unseen <= alone


def test_concepts_that_a_style_draws_identically_go_together(pictures, splits, groups):
    found = {split: next(p for p, s in zip(pictures, splits, strict=True) if s == split) for split in SPLITS}
    trained = next(
        i
        for i, (picture, split) in enumerate(zip(pictures, splits, strict=True))
        if split == TRAIN and picture.style == found[HELD_OUT_PAIRS].style
    )
    for split in (HELD_OUT, HELD_OUT_PAIRS):
        other, merged = found[split].concept, list(pictures)
        drawn = dataclasses.replace(pictures[trained].drawn, same=(other.character,))
        merged[trained] = dataclasses.replace(pictures[trained], drawn=drawn)
        after = split_pictures(merged, groups)
        of_style = [(p, s) for p, s in zip(merged, after, strict=True) if p.style == pictures[trained].style]
        assert HELD_OUT not in {s for p, s in zip(merged, after, strict=True) if p.concept == other}
        assert {s for p, s in of_style if p.concept == other} == {after[trained]}


def test_nearly_equal_pictures_of_one_style_stay_together(pictures, splits):
    found = {(p.concept.name, p.style.name): split for p, split in zip(pictures, splits, strict=True)}
    assert found[NEARLY[0], "noto"] == found[NEARLY[1], "noto"]
    fluent = [name for name, style in found if style == "glossy fluent" and found[name, style] == HELD_OUT_PAIRS]
    assert fluent
    assert all(found[name, "flat fluent"] == HELD_OUT_PAIRS for name in fluent)


def test_a_picture_keeps_its_split_when_concepts_are_added(pictures, splits, groups):
    fewer = [i for i, p in enumerate(pictures) if p.concept.name[0] < "h"]
    assert 100 < len(fewer) < len(pictures) - 100
    assert split_pictures([pictures[i] for i in fewer], groups) == [splits[i] for i in fewer]


@pytest.mark.slow
@pytest.mark.skipif(
    not (icon_sets.icon_folder() / "node_modules").is_dir(), reason="`make styles` has not installed the icon sets"
)
def test_real_icon_sets_split_by_the_same_rules_into_what_the_documentation_says(entries, groups):
    pictures = styled_pictures.pictures(entries, STYLES)
    splits = split_pictures(pictures, groups)
    require_rules(pictures, splits, groups)
    assert collections.Counter(splits) == {TRAIN: 5592, HELD_OUT_PAIRS: 609, HELD_OUT: 236}
    assert len({p.concept.character for p in pictures}) == 1626
    near = near_duplicates.near_pictures([p.drawn.thumbnail for p in pictures])
    alike = [(pictures[i], pictures[j]) for i, j in near]
    one_concept = [{a.style.name, b.style.name} for a, b in alike if a.concept.character == b.concept.character]
    assert len(alike) == 26881
    assert len(one_concept) == 1428
    assert one_concept.count({"glossy fluent", "flat fluent"}) == 1276
    captions = [caption for picture in pictures for caption in picture.captions]
    assert len(captions) == len(set(captions)) == 4 * len(pictures)
    window = Config.from_dict(config.get_config().to_dict()).text.max_length
    assert bert_tokenizer(minilm_folder(), window + 10, "")(captions).mask.sum(axis=1).max() == window
