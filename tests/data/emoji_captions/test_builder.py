import collections
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from nami_jax.config import ConfigError, DataConfig
from nami_jax.data.captioned_images import open_source
from nami_jax.data.emoji_captions import EmojiCaptions, EmojiConfig, captions, catalogue, near_duplicates, styles


@pytest.fixture(scope="module")
def built(emoji_config: DataConfig) -> dict[str, list[dict]]:
    return {
        split: list(tfds.data_source(emoji_config.name, split=split, data_dir=emoji_config.data_dir))
        for split in ("train", "held_out")
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (":red_apple:", "red apple"),
        (":keycap_1:", "keycap with the number 1"),
        (":keycap_#:", "keycap with a hash sign"),
        (":one_o’clock:", "clock showing one o'clock"),
        (":ON!_arrow:", "ON arrow"),
        (":AB_button_(blood_type):", "blood type AB button"),
        (":man_red_hair:", "man with red hair"),
        (":woman_beard:", "woman with a beard"),
        (":family_man_woman_boy_boy:", "family of a man, a woman and two boys"),
        (":family_adult_child:", "family of an adult and a child"),
        (":kiss_woman_man:", "kiss between a woman and a man"),
        (":couple_with_heart_man_man:", "couple with heart, two men"),
        (":1st_place_medal:", "first place medal"),
    ],
)
def test_cldr_names_are_made_readable(name, text):
    assert captions.readable(name) == text


@pytest.mark.parametrize(
    ("name", "text"),
    [(":France:", "flag of France"), (":Bahamas:", "flag of the Bahamas"), (":St._Lucia:", "flag of St. Lucia"),
     (":Antigua_&_Barbuda:", "flag of Antigua and Barbuda"), (":Isle_of_Man:", "flag of the Isle of Man")],
)  # fmt: skip
def test_countries_are_named_as_flags_with_their_article(name, text):
    assert captions.readable(name, is_country=True) == text


@pytest.mark.parametrize(
    ("name", "article"),
    [("red apple", "a"), ("avocado", "an"), ("unicorn", "a"), ("hourglass", "an"), ("SOS button", "an"), ("ewe", "a"),
     ("octopus", "an"), ("leaf fluttering in wind", "a"), ("fire engine", "a"), ("one-piece swimsuit", "a")],
)  # fmt: skip
def test_articles_follow_the_sound(name, article):
    assert captions.articled(name) == f"{article} {name}"


@pytest.mark.parametrize(
    "name", ["grapes", "cooked rice", "Aquarius", "no smoking", "men wrestling", "bread", "tennis"]
)
def test_plurals_masses_and_proper_names_take_no_article(name):
    assert captions.articled(name) is None


@pytest.mark.parametrize("alias", [":u7121:", ":cat2:", ":-1:", ":+1:", ":m:", ":clock130:"])
def test_aliases_that_are_codes_are_dropped(alias):
    assert captions.plain_alias(alias) is None


def test_every_caption_is_plain_english_and_belongs_to_one_picture(entries):
    owners = collections.defaultdict(set)
    for entry in entries:
        assert entry.captions
        for caption in entry.captions:
            assert caption.strip() == caption != ""
            assert not set(caption) & set(":_|’!&"), caption
            owners[captions.spelling_key(caption)].add(entry.character)
    assert {key: chars for key, chars in owners.items() if len(chars) > 1} == {}


def test_captions_vary_by_alias_flag_form_and_article(by_name):
    assert by_name["red apple"].captions == ("red apple", "apple", "a red apple")
    assert by_name["Germany"].captions == ("flag of Germany", "Germany flag")
    assert "family of two women and a girl" in by_name["family"].captions
    assert by_name["France"].captions[0] == "flag of France"  # named by the country, not by an island that shares it


def test_an_alias_that_is_another_emoji_s_name_is_dropped(by_name):
    assert by_name["two-hump camel"].captions == ("two-hump camel", "a two-hump camel")  # CLDR alias: "camel"


def test_no_picture_comes_twice_and_none_has_a_skin_tone(entries):
    assert len({entry.thumbnail.tobytes() for entry in entries}) == len(entries) > 1800
    assert not any(set(entry.character) & catalogue.SKIN_TONES for entry in entries)


@pytest.mark.parametrize(
    "names",
    [("bear", "polar bear"), ("red apple", "green apple"), ("lemon", "lime"), ("man artist", "woman artist"),
     ("one o’clock", "six-thirty"), ("keycap 1", "keycap 9"), ("full moon", "new moon"), ("red heart", "blue heart"),
     ("magnifying glass tilted left", "magnifying glass tilted right"), ("man running", "woman running facing right"),
     ("Norway", "Bouvet Island"), ("Indonesia", "Monaco"), ("man bald", "woman curly hair")],
)  # fmt: skip
def test_near_duplicates_share_a_group(by_name, groups, names):
    assert len({groups[by_name[name].character] for name in names}) == 1


def test_unlike_emoji_are_in_groups_of_their_own(by_name, groups):
    names = ("penguin", "taco", "violin", "ewe", "goat", "cloud", "garlic")  # several of them pale on white
    assert len({groups[by_name[name].character] for name in names}) == len(names)


def test_no_held_out_picture_resembles_one_in_training(entries, groups):
    held_out = near_duplicates.held_out_groups(groups)
    art = np.stack([e.thumbnail[2::4, 2::4].astype(np.float32) for e in entries])  # (E, 18, 18, 4)
    art[..., :3] *= art[..., 3:] / 255  # white on white would look like nothing
    is_held_out = np.array([groups[e.character] in held_out for e in entries])
    train = art[~is_held_out].reshape(sum(~is_held_out), -1)
    for turned in (art, art[:, :, ::-1]):
        ours = turned[is_held_out].reshape(sum(is_held_out), -1)
        sizes = np.square(ours).sum(1)[:, None] + np.square(train).sum(1)
        assert (1 - 2 * ours @ train.T / sizes).min() > 0.02  # relative squared distance


def test_about_five_percent_are_held_out_and_giant_groups_are_not(entries, groups):
    held_out = near_duplicates.held_out_groups(groups)
    sizes = collections.Counter(groups.values())
    assert 0.03 < sum(sizes[group] for group in held_out) / len(entries) < 0.07
    assert max(sizes[group] for group in held_out) <= near_duplicates.LARGEST_HELD_OUT_GROUP < max(sizes.values())


def test_splits_share_no_group_and_hold_out_a_twentieth(built):
    train, held_out = ({e["group"] for e in built[split]} for split in ("train", "held_out"))
    assert not train & held_out
    assert 0.03 < len(built["held_out"]) / (len(built["train"]) + len(built["held_out"])) < 0.07


def test_images_are_distinct_art_on_white_with_captions(built):
    examples = built["train"] + built["held_out"]
    images = np.stack([e["image"] for e in examples])
    assert images.shape[1:] == (32, 32, 3)
    assert len({image.tobytes() for image in images}) == len(images)
    corners = images[:, [0, 0, -1, -1], [0, -1, 0, -1]].astype(int)
    assert np.median(corners.min((1, 2))) == 255
    assert {e["category"].decode() for e in examples} == {"Food & Drink", "Animals & Nature"}
    assert all(len(set(e["captions"])) == len(e["captions"]) > 0 for e in examples)


def test_art_that_is_not_square_is_centred(built):
    (melon,) = (e["image"] for e in built["train"] + built["held_out"] if e["emoji"].decode() == "🍉")
    rows = np.flatnonzero((melon < 250).any((1, 2)))
    assert abs(rows[0] - (31 - rows[-1])) <= 1


def test_another_size_and_category_split_alike(tmp_path: Path, groups):
    config = EmojiConfig(name="fruit_16", size=16, categories=("Food & Drink",))
    builder = EmojiCaptions(config=config, data_dir=tmp_path)
    builder.download_and_prepare()
    held_out = list(builder.as_data_source(split="held_out"))  # pyright: ignore[reportCallIssue]
    assert held_out[0]["image"].shape == (16, 16, 3)
    assert {e["group"].decode() for e in held_out} <= near_duplicates.held_out_groups(groups)
    assert {e["category"].decode() for e in held_out} == {"Food & Drink"}


def test_metadata_name_the_artists_and_both_licences(emoji_config: DataConfig):
    info = tfds.builder(emoji_config.name, data_dir=emoji_config.data_dir).info
    for text in ("Twemoji", "CC-BY 4.0", "Unicode License"):
        assert text in info.description
    folder = Path(emoji_config.data_dir, "emoji_captions", "food_animals_32", "1.0.0")
    assert "CC-BY 4.0" in (folder / "LICENSE").read_text()


@pytest.fixture
def in_styles(installed, tmp_path: Path) -> tfds.core.DatasetBuilder:
    builder = EmojiCaptions(config="styles_32", data_dir=tmp_path)
    builder.download_and_prepare()
    return builder


def test_concepts_in_styles_name_both_and_come_in_three_splits(in_styles, by_name):
    splits = {s: list(in_styles.as_data_source(split=s)) for s in ("train", "held_out_pairs", "held_out")}
    examples = {(e["emoji"].decode(), e["style"].decode()): e for split in splits.values() for e in split}
    assert len(examples) == sum(map(len, splits.values()))  # each pair once
    pie = examples[by_name["pie"].character, "flat fluent"]
    assert pie["image"].shape == (32, 32, 3)
    assert pie["category"].decode() == "Food & Drink"
    assert pie["captions"][0].decode() == "a pie, flat fluent style"
    banana = [examples[by_name["banana"].character, style.name]["image"] for style in styles.STYLES]
    assert len({image.tobytes() for image in banana}) == 4
    assert len(splits["train"]) > 200


def test_metadata_name_every_artist_and_licence_but_openmoji_s_only_with_its_pictures(tmp_path):
    configs = ("styles_32", "styles_openmoji_32")
    in_all, with_openmoji = (EmojiCaptions(config=name, data_dir=tmp_path).info for name in configs)
    licences = in_all.redistribution_info.license
    for text in ("Twemoji", "CC-BY 4.0", "Google", "Apache", "Microsoft", "MIT", "Unicode License"):
        assert text in licences
        assert text in in_all.description
    assert all(f"@misc{{{key}," in in_all.citation for key in ("twemoji", "noto", "fluent", "cldr"))
    for text in (licences, in_all.description, in_all.citation):
        assert "openmoji" not in text.lower()
    assert "CC-BY-SA 4.0 (OpenMoji" in with_openmoji.redistribution_info.license


def test_without_the_packages_the_error_names_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("NAMI_STYLES", str(tmp_path / "nothing"))
    cfg = DataConfig(name="emoji_captions/styles_32", data_dir=str(tmp_path / "data"))
    with pytest.raises(ConfigError, match=r"noto style are not installed: no .*icons\.json\. Run `make styles`"):
        open_source(cfg, "train")
    assert not list((tmp_path / "data").rglob("*.array_record*"))
