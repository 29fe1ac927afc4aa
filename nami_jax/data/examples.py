"""What training sees of any data set: an image or latent with one of its texts, and the states of that text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from nami_jax.config import Config, DataConfig
from nami_jax.data.captioned_images import CaptionedImages, Sample, all_captions, open_source
from nami_jax.data.prepared import BucketSource, PreparedData
from nami_jax.data.prepared_format import SPLITS
from nami_jax.text.caption_table import TextTable, encode_captions
from nami_jax.text.encoders import TextStates


class Example(NamedTuple):
    """A sample as it is shown once, with one of its captions."""

    image: np.ndarray  # (H, W, C) at the last stage's size: uint8 pixels or float latents
    caption: str
    embeds: np.ndarray  # (T, D) states of the caption's tokens
    pooled: np.ndarray  # (P,)
    lower: tuple[np.ndarray, ...] = ()  # latents of stage K-1, ..., 1, where they are not the pooled `image`


class ExampleSource(Protocol):
    """Random access to samples of one size, and how an example shows one of them."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Any: ...

    @property
    def num_corrupt(self) -> int:
        """Distinct unreadable samples met so far."""
        ...

    def example(self, sample: Any, rng: np.random.Generator | None) -> Example:
        """Shows a sample with a caption drawn by `rng`; without one, with its first caption and never mirrored."""
        ...


class Pixels:
    """The images of a tensorflow-datasets set, with the states of their captions looked up in a table."""

    def __init__(self, images: CaptionedImages, table: TextTable, flip: bool = False):
        """Puts images and text states together; `flip` mirrors half of the examples."""
        self._images, self._table, self._flip = images, table, flip

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        """Returns sample `index`; see `CaptionedImages`."""
        return self._images[index]

    @property
    def num_corrupt(self) -> int:
        """Distinct unreadable images met so far."""
        return self._images.num_corrupt

    def example(self, sample: Sample, rng: np.random.Generator | None) -> Example:
        """Shows an image with a drawn caption, mirrored by chance; without `rng`, as it is with its first caption."""
        image, captions = sample["image"], sample["captions"]
        caption = captions[rng.integers(len(captions)) if rng else 0]
        states = self._table.lookup([caption])
        return Example(_mirrored(image, self._flip, rng), caption, states.embeds[0], states.pooled[0])


class PreparedExamples:
    """The prepared pictures of one bucket, latents or pixels, stored together with the states of their captions."""

    def __init__(self, records: BucketSource, flip: bool = False, lower_levels: int = 0):
        """Wraps one bucket's records.

        Args:
            records: of one bucket.
            flip: mirror half of the examples.
            lower_levels: how many smaller sizes' own latents an example shows; the records have at least so many.
        """
        self._records, self._flip, self._lower_levels = records, flip, lower_levels

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Any:
        """Returns record `index`; see `BucketSource`."""
        return self._records[index]

    @property
    def num_corrupt(self) -> int:
        """Distinct damaged records met so far."""
        return self._records.num_corrupt

    def example(self, sample: Any, rng: np.random.Generator | None) -> Example:
        """Shows a picture with a drawn caption, mirrored by chance; without `rng`, as it is with its first caption."""
        i = rng.integers(len(sample.captions)) if rng else 0
        states = (sample.text_embeds[i], sample.pooled[i])
        image = _mirrored(sample.image, self._flip, rng)
        embeds, pooled = (x.astype(np.float32) for x in states)
        return Example(image, sample.captions[i], embeds, pooled, sample.lower[: self._lower_levels])


def _mirrored(image: np.ndarray, flip: bool, rng: np.random.Generator | None) -> np.ndarray:
    return image[:, ::-1] if rng and flip and rng.random() < 0.5 else image


class Data(NamedTuple):
    """What a run trains on."""

    train: Sequence[ExampleSource]  # one source for each bucket
    held_out: Sequence[ExampleSource]  # of prepared data there may be none
    empty: TextStates  # of the empty caption, B = 1
    text_encoder: str = ""  # id of the one that the states of prepared data are by


def open_data(cfg: Config, fingerprint: str | None = None) -> Data:
    """Opens the prepared data of a run, or prepares its data set and its captions' states where they are absent.

    Args:
        cfg: the run.
        fingerprint: of the autoencoder that is to decode the latents; None for pixels.

    Raises:
        ConfigError: a name or a setting that does not fit the data, or latents of another autoencoder.
    """
    if cfg.data.prepared is not None:
        prepared = PreparedData(cfg.data)
        prepared.require_flow(cfg, fingerprint)
        train, held_out = (prepared.sources(split) for split in SPLITS)
        levels = cfg.model.num_stages - 1 if cfg.data.lower_stages == "pixels" else 0
        return Data(
            [PreparedExamples(bucket, cfg.data.flip, levels) for bucket in train],
            [PreparedExamples(bucket, lower_levels=levels) for bucket in held_out],
            prepared.empty,
            prepared.settings.text_encoder or "",
        )
    images, held_out_images = (open_source(cfg.data, split) for split in (cfg.data.train_split, cfg.data.eval_split))
    captions = {*all_captions(images), *all_captions(held_out_images)}
    table = encode_captions(cfg.text, sorted(captions), Path(cfg.data.data_dir) / "text")
    return Data([Pixels(images, table, cfg.data.flip)], [Pixels(held_out_images, table)], table.empty)


class PictureSource(Protocol):
    """Random access to images of one size, for a run that needs no states of texts."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Sample: ...

    @property
    def num_corrupt(self) -> int:
        """Distinct unreadable images met so far."""
        ...


class PreparedPictures:
    """The prepared pixels of one bucket."""

    def __init__(self, records: BucketSource):
        """Wraps one bucket's records."""
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Sample:
        """Returns record `index`; see `BucketSource`."""
        record = self._records[index]
        return Sample(image=record.image, captions=record.captions or (record.id,))

    @property
    def num_corrupt(self) -> int:
        """Distinct damaged records met so far."""
        return self._records.num_corrupt


class Pictures(NamedTuple):
    """What a run without texts trains on."""

    train: Sequence[PictureSource]  # one source for each bucket
    held_out: Sequence[PictureSource]  # of prepared data there may be none


def open_pictures(data: DataConfig) -> Pictures:
    """Opens the prepared pixels of a run, or prepares its tensorflow-datasets set where that is absent.

    Raises:
        ConfigError: a name or a setting that does not fit the data, or prepared latents.
    """
    if data.prepared is None:
        return Pictures(*([open_source(data, split)] for split in (data.train_split, data.eval_split)))
    prepared = PreparedData(data)
    prepared.require_pixels()
    return Pictures(*([PreparedPictures(bucket) for bucket in prepared.sources(split)] for split in SPLITS))
