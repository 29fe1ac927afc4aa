"""Real pictures of a data set's splits, with their captions and labels, and the features that are kept of them."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from nami_jax.config import ConfigError, DataConfig, EvaluationConfig, require
from nami_jax.data.captioned_images import CORRUPT, CaptionedImages
from nami_jax.data.images import decode_image, to_stage
from nami_jax.data.prepared import PreparedData
from nami_jax.data.prepared_format import SPLITS
from nami_jax.data.tfds_builder import feature_value, open_records
from nami_jax.evaluation.features import FeatureNetwork
from nami_jax.files.disk import written_whole
from nami_jax.files.output_folder import make_folder
from nami_jax.sampling.pictures import to_images
from nami_jax.terminal.progress import progress_bar

FOLDER = "features"  # in `data.data_dir`
AT_ONCE = 256  # pictures read at once
CONCEPT, STYLE = "concept", "style"  # kinds of labels
Decode = Callable[[Any], Any]  # latents (B, h, w, C) -> pixels (B, H, W, 3) in [-1, 1]


@dataclasses.dataclass(frozen=True, eq=False)
class RealPictures:
    """Some pictures of a split, read when they are asked for.

    Attributes:
        split: its name.
        captions: all of each picture.
        labels: kind -> (M,) texts, for the kinds that the data set has.
        read: i -> (H, W, C), uint8 pixels or latents.
        decode: makes pixels of latents; None for pixels.
        digests: (M,) of the pictures: the same picture has the same one in every split.
        places: (M,) where each stands in its split.
        read_lower: i -> the latents at the sizes of stages K-1, ..., 1, where they are not the pooled ones.
    """

    split: str
    captions: Sequence[tuple[str, ...]]
    labels: dict[str, np.ndarray]
    read: Callable[[int], np.ndarray]
    decode: Decode | None
    digests: Sequence[str]
    places: Sequence[int]
    read_lower: Callable[[int], tuple[np.ndarray, ...]] = lambda _: ()

    @property
    def fingerprint(self) -> str:
        """Of all pictures in their order."""
        return hashlib.sha256("".join(self.digests).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.captions)

    def model_images(self, which: Iterable[int]) -> np.ndarray:
        """Returns some pictures as a network is trained on them: (n, H, W, C) float32, pixels in [-1, 1] or latents."""
        return to_stage(np.stack([self.read(int(i)) for i in which]), 1)

    def lower_images(self, which: Iterable[int]) -> tuple[np.ndarray, ...]:
        """Returns some pictures' own latents at the sizes of stages K-1, ..., 1, each (n, H, W, C); empty if pooled."""
        return tuple(np.stack(level) for level in zip(*(self.read_lower(int(i)) for i in which), strict=True))

    def pixels(self, which: Iterable[int]) -> np.ndarray:
        """Returns some pictures (n, H, W, 3) uint8."""
        if self.decode is None:
            return np.stack([self.read(int(i)) for i in which])
        return as_levels(self.decode(self.model_images(which)))


def as_levels(pixels: np.ndarray) -> np.ndarray:
    """Returns pixels (n, H, W, 3) in [-1, 1] as uint8."""
    return np.stack([np.asarray(picture) for picture in to_images(pixels)])


def open_real(data: DataConfig, split: str, settings: EvaluationConfig, decode: Decode | None) -> RealPictures:
    """Opens a split, of which `settings.references` pictures, drawn by `settings.seed`, count at most.

    Of a tensorflow-datasets set, those that cannot be read are left out, with a warning.

    Args:
        data: the data set; of prepared data, the first bucket that has pictures of the split.
        split: its name; "train" or "held_out" of prepared data.
        settings: names the features with labels.
        decode: makes pixels of prepared latents; None for pixels.

    Raises:
        ConfigError: the data set or the split does not exist, or the split is empty.
    """
    return (_open_set if data.prepared is None else _open_prepared)(data, split, settings, decode)


def splits_of(data: DataConfig) -> tuple[str, str]:
    """Returns the names of the splits that are trained on and held out."""
    train, held_out = SPLITS
    return (data.train_split, data.eval_split) if data.prepared is None else (train, held_out)


def _chosen(count: int, settings: EvaluationConfig) -> np.ndarray:
    if count <= settings.references:
        return np.arange(count)
    return np.sort(np.random.default_rng(settings.seed).choice(count, settings.references, replace=False))


def _open_set(data: DataConfig, split: str, settings: EvaluationConfig, decode: Decode | None) -> RealPictures:
    records, class_names = open_records(data, split)
    source = CaptionedImages(records, data, class_names)
    keys = {CONCEPT: settings.concept_key, STYLE: settings.style_key}
    kept, captions, digests, labels = [], [], [], {kind: [] for kind in keys}
    chosen = _chosen(len(records), settings).tolist()
    for i in chosen:
        try:
            record = records[i]
            decode_image(feature_value(record, data.image_key), data.side)  # `source` would show the next good one
            captions.append(source.captions(i))
        except CORRUPT:
            continue
        digests.append(_digest(str(data.side).encode() + feature_value(record, data.image_key)))
        kept.append(i)
        for kind, key in keys.items():
            if key in record:
                labels[kind].append(_text(record[key]))
    if lost := len(chosen) - len(kept):
        logging.warning("%s: %d of %d pictures of %s are unreadable and left out.", data.name, lost, len(chosen), split)
    known = {kind: np.array(texts) for kind, texts in labels.items() if texts}
    return RealPictures(split, captions, known, lambda i: source[kept[i]]["image"], decode, digests, kept)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _open_prepared(data: DataConfig, split: str, settings: EvaluationConfig, decode: Decode | None) -> RealPictures:
    require(split in SPLITS, field="split", value=split, rule=f"prepared data have {SPLITS}", remedy="Set one of these")
    sources = PreparedData(data).sources(split)
    if not sources:
        raise ConfigError(f"split = {split!r}: {data.prepared} has no pictures of it. Set 'train', or prepare again.")
    source, captions, digests = sources[0], [], []
    kept = _chosen(len(source), settings).tolist()
    for i in kept:
        record = source[i]
        digests.append(_digest(np.ascontiguousarray(record.image).tobytes()))
        captions.append(record.captions or ("",))
    own = data.lower_stages == "pixels"

    def lower(i: int) -> tuple[np.ndarray, ...]:
        return source[kept[i]].lower if own else ()

    return RealPictures(split, captions, {}, lambda i: source[kept[i]].image, decode, digests, kept, lower)


def real_features(pictures: RealPictures, network: FeatureNetwork, folder: Path, progress: bool) -> np.ndarray:
    """Returns the features (M, D) of all pictures, computed once and kept in a folder.

    Args:
        pictures: the real ones.
        network: computes them; its name and digest are in the file's name.
        folder: where they are kept.
        progress: show a bar.

    Raises:
        ConfigError: the folder cannot be written.
    """
    path = folder / f"{network.name}-{network.digest[:16]}-{pictures.fingerprint[:32]}.npy"
    if path.is_file():
        try:
            kept = np.load(path)
            if kept.shape == (len(pictures), network.size):
                return kept
        except ValueError:
            pass  # damaged: computed again
    make_folder(folder, field="data.data_dir")
    bar = progress_bar(_parts(len(pictures)), desc=f"features of {pictures.split}", disable=not progress)
    found = np.concatenate([network(pictures.pixels(part)) for part in bar])
    with written_whole(path) as unfinished, unfinished.open("wb") as file:
        np.save(file, found)
    return found


def _parts(count: int) -> list[range]:
    return [range(start, min(start + AT_ONCE, count)) for start in range(0, count, AT_ONCE)]
