"""Pictures to feature vectors, by the networks that metrics are named after. Before it: pictures; after it: metrics.

EfficientNet-Lite0's weights come with a package; those of the others are the user's own files. Each network gets its
pictures as its original does: resized whole to the network's side by Pillow's bicubic filter, which antialiases
(EfficientNet-Lite0, DINOv2); the same, with a cut from the middle where they are not square (CLIP); or resized by
TensorFlow 1's bilinear filter, which does not antialias (Inception-v3, inside the network).
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from PIL import Image

from nami_jax.checkpoints.fingerprints import fingerprint_json
from nami_jax.config import require
from nami_jax.models import dinov2, efficientnet_lite, inception
from nami_jax.models.clip import Clip, ClipConfig
from nami_jax.models.dinov2 import Dinov2Config
from nami_jax.text.tokens import Tokenizer, clip_tokenizer
from nami_jax.weights import Tensor, WeightsError, open_tensors, tensors_fingerprint
from nami_jax.weights.clip_keys import load_clip, read_clip_config
from nami_jax.weights.dinov2_keys import load_dinov2, read_dinov2_config
from nami_jax.weights.efficientnet_lite_keys import efficientnet_lite0_file, load_efficientnet_lite
from nami_jax.weights.inception_keys import load_inception
from nami_jax.weights.pretrained import read_sizes
from nami_jax.weights.torch_files import SUFFIXES, open_weights, read_torch_file

NAMES = ("efficientnet_lite0", "inception_v3", "dinov2", "clip")
BATCH = 16  # pictures or texts at once


@dataclasses.dataclass(frozen=True)
class FeatureNetwork:
    """A frozen network that describes pictures by vectors.

    Attributes:
        name: which it is, one of `NAMES`.
        digest: changes with its weights and sizes.
        size: features of a picture.
        prepare: pictures (B, H, W, 3) uint8 -> what the network takes, made on the host.
        network: jitted, what `prepare` returns -> (B, size) float32.
    """

    name: str
    digest: str
    size: int
    prepare: Callable[[np.ndarray], np.ndarray]
    network: Callable[[np.ndarray], Any]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Maps pictures (B, H, W, 3) uint8 of any size to features (B, size) float32, batch by batch.

        Raises:
            ValueError: the array is of another shape or type.
        """
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or 0 in images.shape[1:]:
            raise ValueError(f"images are {images.dtype} of shape {images.shape}: need uint8, (B, H, W, 3).")
        return _in_batches(lambda some: self.network(_filled(self.prepare(some))), images, self.size)


@dataclasses.dataclass(frozen=True)
class ClipNetwork(FeatureNetwork):
    """CLIP, which describes texts too.

    Attributes:
        tokenizer: texts -> tokens of one length.
        text_network: jitted, tokens and their mask (B, T) -> (B, size) float32.
    """

    tokenizer: Tokenizer
    text_network: Callable[[np.ndarray, np.ndarray], Any]

    def text(self, captions: list[str]) -> np.ndarray:
        """Maps texts to vectors (B, size) float32 of the pictures' space, as these not scaled to length 1.

        A text longer than the network's window is cut, with a warning.
        """
        tokens = self.tokenizer(captions)
        both = np.stack([tokens.ids, tokens.mask], axis=1)  # (B, 2, T)

        def run(some: np.ndarray) -> Any:
            filled = np.concatenate([some, np.repeat(some[:1], BATCH - len(some), axis=0)])
            return self.text_network(filled[:, 0], filled[:, 1])

        return _in_batches(run, both, self.size)


def _in_batches(run: Callable[[np.ndarray], Any], rows: np.ndarray, size: int) -> np.ndarray:
    features = np.zeros((len(rows), size), np.float32)
    for start in range(0, len(rows), BATCH):
        some = rows[start : start + BATCH]
        features[start : start + BATCH] = np.asarray(run(some))[: len(some)]
    return features


def _filled(images: np.ndarray) -> np.ndarray:
    """Fills a batch up with black pictures, so that one program serves all of a size."""
    return np.concatenate([images, np.zeros((BATCH - len(images), *images.shape[1:]), images.dtype)])


def load_features(name: str, folder: str | None = None) -> FeatureNetwork:
    """Loads a feature network.

    Args:
        name: one of `NAMES`.
        folder: the user's own weights. "dinov2" and "clip": a folder with config.json and *.safetensors in the Hugging
            Face layout, and for CLIP tokenizer.json. "inception_v3": the file `pt_inception-2015-12-05-*.pth`, the same
            as safetensors, or a folder with one of them. None for "efficientnet_lite0".

    Raises:
        ConfigError: the name is unknown, the folder is missing or given in vain, or a file in it is damaged.
        ModuleNotFoundError: the package with EfficientNet-Lite0's weights is not installed.
        WeightsError: weights are missing, damaged or of another network.
    """
    require(name in NAMES, field="name", value=name, rule="is no feature network", remedy=f"Use {' or '.join(NAMES)}")
    packaged = name == "efficientnet_lite0"
    require(
        packaged == (folder is None),
        field="folder",
        value=folder,
        rule=f"{name}'s weights come with a package" if packaged else f"{name}'s weights are not part of this package",
        remedy="Give no folder"
        if packaged
        else "Give the folder of its weights; docs/feature_networks.md says whose they are",
    )
    if name == "efficientnet_lite0":
        tensors = read_torch_file(efficientnet_lite0_file())
        run, digest = _jitted(load_efficientnet_lite(tensors, shardings=_here)), tensors_fingerprint(tensors)
        return FeatureNetwork(name, digest, efficientnet_lite.HEAD, _resizer(efficientnet_lite.SIDE), run)
    path = Path(folder or "")
    if name == "inception_v3":
        tensors = _inception_tensors(path)
        run, digest = _jitted(load_inception(tensors, _here)), tensors_fingerprint(tensors)
        return FeatureNetwork(name, digest, inception.FEATURES, lambda images: images, run)
    if name == "dinov2":
        return _load_dinov2(path)
    return _load_clip(path)


def _load_dinov2(folder: Path) -> FeatureNetwork:
    cfg = read_sizes(folder, read_dinov2_config)
    require(
        dinov2.SIDE % cfg.patch_size == 0,
        field="patch_size",
        value=cfg.patch_size,
        rule=f"must divide {dinov2.SIDE}, the side of the pictures",
        remedy="Use DINOv2 ViT-L/14",
    )
    tensors = open_tensors(folder)
    run = _jitted(load_dinov2(cfg, tensors, _here))
    return FeatureNetwork("dinov2", _digest(tensors, cfg), cfg.hidden_size, _resizer(dinov2.SIDE), run)


def _load_clip(folder: Path) -> ClipNetwork:
    cfg = read_sizes(folder, read_clip_config)
    tokenizer = clip_tokenizer(folder, cfg.text_config.max_position_embeddings, "CLIP's own")
    require(
        tokenizer.size <= cfg.text_config.vocab_size,
        field="vocab_size",
        value=cfg.text_config.vocab_size,
        rule=f"tokenizer.json has ids up to {tokenizer.size - 1}",
        remedy="Use both from the same release",
    )
    tensors = open_tensors(folder)
    model = load_clip(cfg, tensors, shardings=_here)
    side = cfg.vision_config.image_size
    return ClipNetwork(
        "clip",
        _digest(tensors, cfg),
        cfg.projection_dim,
        lambda images: crop(images, side),
        _jitted(model, Clip.images),
        tokenizer,
        _jitted(model, Clip.texts),
    )


def _digest(tensors: Mapping[str, Tensor], cfg: Dinov2Config | ClipConfig) -> str:
    return fingerprint_json([tensors_fingerprint(tensors), cfg.to_dict()])


def _inception_tensors(path: Path) -> Mapping[str, Tensor]:
    if not path.is_dir():
        return open_weights(path)
    files = [file for file in sorted(path.iterdir()) if file.suffix in (*SUFFIXES, ".safetensors")]
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise WeightsError(
            f"{path} must hold one file of weights (.pth or .safetensors) and holds {found}. Name the file."
        )
    return open_weights(files[0])


def resize(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes pictures (B, H, W, 3) uint8 to (B, height, width, 3) uint8, by Pillow's bicubic filter, antialiased."""
    if images.shape[1:3] == (height, width):
        return images
    size, bicubic = (width, height), Image.Resampling.BICUBIC
    return np.stack([np.asarray(Image.fromarray(image).resize(size, bicubic)) for image in images])


def crop(images: np.ndarray, side: int) -> np.ndarray:
    """Resizes pictures (B, H, W, 3) uint8 to a shorter side of `side`, and keeps the middle, (B, side, side, 3)."""
    shorter = min(images.shape[1:3])
    height, width = (side * length // shorter for length in images.shape[1:3])
    top, left = (height - side) // 2, (width - side) // 2
    return resize(images, height, width)[:, top : top + side, left : left + side]


def _resizer(side: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda images: resize(images, side, side)


def _here(abstract: Any) -> Any:
    """Puts all parameters on this process's first device."""
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda _: device, abstract)


def _jitted(model: nnx.Module, method: Callable[..., jax.Array] | None = None) -> Callable[..., jax.Array]:
    """Compiles a method of a network, of (network, *arrays); None: its call."""
    graphdef, state = nnx.split(model)

    @jax.jit
    def run(state: Any, *arrays: jax.Array) -> jax.Array:
        merged: Any = nnx.merge(graphdef, state)
        return merged(*arrays) if method is None else method(merged, *arrays)

    def run_exactly(*arrays: Any) -> jax.Array:
        # In full float32 on every platform, so that kept features do not depend on where they were made.
        with jax.default_matmul_precision("float32"):
            return run(state, *arrays)

    return run_exactly
