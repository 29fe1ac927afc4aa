import dataclasses
import io
import logging
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from nami_jax.config import ConfigError, DataConfig
from nami_jax.data.captioned_images import CaptionedImages, all_captions, open_source
from nami_jax.data.corruption import CorruptDataError
from nami_jax.data.tfds_builder import prepared_builder
from tests.support.images import bomb

COLOURS = ("red", "green", "blue", "black", "gold", "grey")


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


class ColourCards(tfds.core.GeneratorBasedBuilder):
    """Six cards with every kind of caption that tensorflow-datasets knows."""

    VERSION = tfds.core.Version("1.0.0")
    half_way = staticmethod(lambda: None)  # a test sets what happens in the middle of a preparation

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "picture": {"front": tfds.features.Image(shape=(None, None, 3))},
            "label": tfds.features.ClassLabel(names=[f"{colour}_card" for colour in COLOURS]),
            "title": tfds.features.Text(),
            "names": tfds.features.Sequence(tfds.features.Text()),
            "captions": tfds.features.Sequence({"id": tfds.features.Scalar(np.int64), "text": tfds.features.Text()}),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, colour in enumerate(COLOURS):
            if i == 3:
                self.half_way()
            yield (
                i,
                {
                    "picture": {"front": io.BytesIO(png(colour))},
                    "label": i,
                    "title": f"a {colour} card",
                    "names": [colour, f"{colour} one"],
                    "captions": [{"id": 1, "text": f"it is {colour}"}, {"id": 2, "text": f"{colour} thing"}],
                },
            )


@pytest.fixture
def cards(tmp_path: Path) -> DataConfig:
    return DataConfig(
        name="colour_cards", train_split="train", eval_split="train", image_key="picture/front", caption_key="title",
        side=8, data_dir=str(tmp_path / "not" / "yet"),
    )  # fmt: skip


def opened(cfg: DataConfig, **fields: Any) -> CaptionedImages:
    return open_source(dataclasses.replace(cfg, **fields), "train")


def colour_of(image: np.ndarray) -> str:
    return next(c for c in COLOURS if tuple(image[0, 0]) == Image.new("RGB", (1, 1), c).getpixel((0, 0)))


@pytest.mark.parametrize(
    ("key", "captions"),
    [
        ("title", ("a {} card",)),
        ("label", ("{} card",)),
        ("names", ("{}", "{} one")),
        ("captions/text", ("it is {}", "{} thing")),
    ],
)
def test_texts_sequences_and_class_labels_are_captions(cards, key, captions):
    source = opened(cards, caption_key=key)
    assert len(source) == 6
    for sample in (source[i] for i in range(6)):
        assert sample["image"].shape == (8, 8, 3)
        assert sample["image"].dtype == np.uint8
        colour = colour_of(sample["image"])
        assert sample["captions"] == tuple(caption.format(colour) for caption in captions)


def test_every_caption_comes_in_every_template(cards):
    source = opened(cards, caption_key="names", caption_templates=("{}", "a photo of {}"))
    colour = colour_of(source[0]["image"])
    assert source[0]["captions"] == (colour, f"a photo of {colour}", f"{colour} one", f"a photo of {colour} one")


def test_all_captions_are_sorted_unique_and_need_no_image(cards):
    source = opened(cards, caption_key="label", caption_templates=("{}", "a {}"))
    expected = sorted(t.format(f"{colour} card") for colour in COLOURS for t in ("{}", "a {}"))
    assert all_captions(source) == expected
    broken = CaptionedImages(
        [{"picture": {"front": b""}, "title": b"b"}, {"picture": {"front": b""}, "title": b"a"}], cards
    )
    assert all_captions(broken) == ["a", "b"]


def test_blank_captions_are_dropped_and_none_left_is_the_empty_caption(cards):
    records = [{"picture": {"front": png("red")}, "names": names} for names in ([b"", b" red "], [], [b" "])]
    source = CaptionedImages(records, dataclasses.replace(cards, caption_key="names", caption_templates=("a {}",)))
    assert [source[i]["captions"] for i in range(3)] == [("a red",), ("",), ("",)]


def test_subsplits_open(cards):
    assert len(open_source(cards, "train[:50%]")) == 3


def test_a_source_can_be_sent_to_another_process(cards):
    source = pickle.loads(pickle.dumps(opened(cards)))
    assert len(source) == 6
    assert source[5]["captions"]


class Records(list):
    reads = 0

    def __getitem__(self, index):
        self.reads += 1
        return super().__getitem__(index)


def test_cached_images_are_read_once(cards):
    records = Records({"picture": {"front": png(c)}, "title": c.encode()} for c in COLOURS)
    source = CaptionedImages(records, dataclasses.replace(cards, cache_images=2))
    first = [source[i] for i in range(4)]
    again = [source[i] for i in range(4)]
    assert records.reads == 4 + 2
    assert [a["captions"] for a in first] == [a["captions"] for a in again]


@pytest.fixture
def damaged(cards: DataConfig) -> Callable[[set[int], float], CaptionedImages]:
    def make(corrupt: set[int], share: float) -> CaptionedImages:
        images = [png(c)[:40] if i in corrupt else png(c) for i, c in enumerate(COLOURS)]
        records = [{"picture": {"front": x}, "title": c.encode()} for x, c in zip(images, COLOURS, strict=True)]
        return CaptionedImages(records, dataclasses.replace(cards, max_corrupt_share=share))

    return make


def test_the_next_good_image_stands_in_for_a_corrupt_one(damaged, caplog):
    source = damaged({1, 2, 5}, 0.5)
    with caplog.at_level(logging.WARNING, "absl"):
        for _ in range(2):
            assert [source[i]["captions"][0] for i in (5, 4, 3, 2, 1, 0)] == [
                "red",
                "gold",
                "black",
                "black",
                "black",
                "red",
            ]
    assert source.num_corrupt == 3
    assert [r.getMessage().split(" is corrupt")[0] for r in caplog.records] == [
        f"colour_cards: record {i}" for i in (5, 2, 1)
    ]


def test_too_many_corrupt_images_stop_the_run(damaged):
    source = damaged({1, 2, 5}, 0.4)
    assert source[2]["captions"] == ("black",)
    assert source[1]["captions"] == ("black",)
    with pytest.raises(CorruptDataError, match=r"3 of 6 images .* data\.max_corrupt_share = 0\.4.*record 5"):
        source[5]


def test_a_single_corrupt_image_stops_a_run_that_bears_none(damaged):
    with pytest.raises(CorruptDataError):
        damaged({0}, 0.0)[0]


def test_a_caption_that_is_no_text_makes_a_record_corrupt(cards):
    records = [{"picture": {"front": png("red")}, "title": title} for title in (b"red", b"gr\xfcn", b"blue")]
    source = CaptionedImages(records, dataclasses.replace(cards, max_corrupt_share=0.5))
    assert all_captions(source) == ["blue", "red"]
    assert [source[i]["captions"][0] for i in range(3)] == ["red", "blue", "blue"]
    assert source.num_corrupt == 1


def test_an_image_that_promises_billions_of_pixels_is_one_corrupt_image(cards):
    records = [{"picture": {"front": image}, "title": b"x"} for image in (png("red"), bomb(), bomb(12_000, 9_000))]
    source = CaptionedImages(records, dataclasses.replace(cards, max_corrupt_share=0.9))
    assert colour_of(source[1]["image"]) == "red"
    assert source.num_corrupt == 2


class Damaged(list):
    """Records on a disk of which one has lost its block."""

    def __getitem__(self, index):
        if index == 1:
            raise RuntimeError("Corrupted Riegeli/records file: chunk data hash mismatch")
        return super().__getitem__(index)


def test_a_record_that_is_damaged_on_the_disk_is_skipped(cards):
    records = Damaged({"picture": {"front": png(c)}, "title": c.encode()} for c in ("red", "green", "blue"))
    source = CaptionedImages(records, dataclasses.replace(cards, max_corrupt_share=0.5))
    assert all_captions(source) == ["blue", "red"]
    assert source[1]["captions"] == ("blue",)
    assert source.num_corrupt == 1


def test_positions_outside_the_data_set_raise(damaged):
    with pytest.raises(IndexError):
        damaged(set(), 0.0)[6]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "colour_card"}, r"data\.name = 'colour_card'.*Did you mean 'colour_cards'"),
        ({"name": "zzz_nothing_near"}, r"data\.name.*list_builders"),
        ({"name": "no name!"}, r"data\.name = 'no name!'"),
        ({"name": "huggingface:cifar10"}, r"data\.name = .huggingface:cifar10.: is not the name of a tensorflow"),
        ({"name": "colour_cards:7.0.0"}, r"data\.name.*7\.0\.0.*only: 1\.0\.0"),
        ({"name": "emoji_captions/food_animal_32"}, r"data\.name.*Did you mean 'food_animals_32'"),
        ({"image_key": "picture/frnt"}, r"data\.image_key = 'picture/frnt'.*Did you mean 'picture/front'"),
        ({"image_key": "title"}, r"data\.image_key = 'title': must be Image, not Text.*picture/front"),
        ({"caption_key": "titel"}, r"data\.caption_key = 'titel'.*Did you mean 'title'"),
        ({"caption_key": "captions/id"}, r"data\.caption_key.*must be Text or ClassLabel, not .*captions/text"),
    ],
)
def test_wrong_names_fail_before_anything_is_prepared(cards, fields, message):
    with pytest.raises(ConfigError, match=message):
        opened(cards, **fields)
    assert not Path(cards.data_dir).exists()


@pytest.mark.parametrize(
    ("split", "message"),
    [("trian", r"data\.eval_split = 'trian'.*Did you mean 'train'"), ("train[:9", r"data\.eval_split"),
     ("train[:0]", r"data\.eval_split = 'train\[:0\]': contains no images"),
     ("train[-1:-3]", r"data\.eval_split = 'train\[-1:-3\]': contains no images"),
     ("train[-9:]", r"no such split of colour_cards\. 'train' has 6 images; a part is 'train\[:90%\]'")],
)  # fmt: skip
def test_splits_that_do_not_exist_or_are_empty_fail(cards, split, message):
    with pytest.raises(ConfigError, match=message):
        open_source(dataclasses.replace(cards, eval_split=split), split)


@pytest.mark.parametrize("place", ["{file}", "{file}/below", "/proc/none"])
def test_a_place_where_nothing_can_be_stored_is_named(cards, tmp_path, place):
    (tmp_path / "file").touch()
    place = place.format(file=tmp_path / "file")
    with pytest.raises(ConfigError, match=r"data\.data_dir = .*: (a file is in the way|cannot be written: .*)\. Set a"):
        opened(cards, data_dir=place)


def test_a_data_set_in_another_format_is_refused(cards):
    tfds.builder("colour_cards", data_dir=cards.data_dir, file_format="parquet").download_and_prepare()
    with pytest.raises(ConfigError, match=r"data\.name.*Remove that folder"):
        opened(cards)


def interrupt() -> None:
    raise KeyboardInterrupt


def test_an_interrupted_preparation_leaves_nothing_that_is_read(cards, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(ColourCards, "half_way", staticmethod(interrupt))
        with pytest.raises(KeyboardInterrupt):
            opened(cards)
    assert not tfds.builder("colour_cards", data_dir=cards.data_dir).is_prepared()
    assert len(opened(cards)) == 6


def test_a_package_that_preparation_lacks_is_named_with_the_way_around(cards, monkeypatch):
    def lack() -> None:
        raise ModuleNotFoundError("No module named 'tensorflow'")

    monkeypatch.setattr(ColourCards, "half_way", staticmethod(lack))
    with pytest.raises(ConfigError, match=r"No module named 'tensorflow'.*prepare the data elsewhere as array_record"):
        opened(cards)


def test_a_data_set_that_another_process_prepares_meanwhile_is_read(cards, monkeypatch):
    def prepare_elsewhere() -> None:
        monkeypatch.undo()
        tfds.builder("colour_cards", data_dir=cards.data_dir, file_format="array_record").download_and_prepare()

    monkeypatch.setattr(ColourCards, "half_way", staticmethod(prepare_elsewhere))
    assert len(opened(cards)) == 6


def test_a_prepared_data_set_is_not_prepared_again(cards, monkeypatch):
    opened(cards)
    monkeypatch.setattr(ColourCards, "half_way", staticmethod(interrupt))
    assert prepared_builder(cards, "train").is_prepared()
