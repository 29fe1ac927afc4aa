"""The features of image files by EfficientNet-Lite0; run as a process of its own by `RowProcess`."""

from pathlib import Path

import numpy as np

from nami_jax.data.images import open_image
from nami_jax.evaluation.features import load_features, resize
from nami_jax.files.row_pipe import answer_rows
from nami_jax.models.efficientnet_lite import SIDE
from nami_jax.parallel.kept_programs import keep_on_disk


def main() -> None:
    """Answers paths of images that can be opened with features of length 1; ends with one line without the weights."""
    keep_on_disk()
    try:
        network = load_features("efficientnet_lite0")
    except ModuleNotFoundError as error:
        raise SystemExit(f"error: {error}") from error

    def encode(paths: list[str]) -> np.ndarray:
        pictures = [np.asarray(open_image(Path(path).read_bytes()))[None] for path in paths]
        features = network(np.concatenate([resize(picture, SIDE, SIDE) for picture in pictures]))
        return features / np.linalg.norm(features, axis=1, keepdims=True)

    answer_rows(encode, network.size)
