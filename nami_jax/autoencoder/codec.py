"""The frozen autoencoder: images in [-1, 1] to scaled latents and back, whole or in overlapping tiles.

It is loaded from a folder laid out like diffusers' `vae/`, and `save_autoencoder` writes such a folder.
"""

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nami_jax.autoencoder.tiling import tiled
from nami_jax.config import AutoencoderConfig, ConfigError, ModelConfig, choices, require
from nami_jax.files.disk import written_whole
from nami_jax.files.json_files import read_json
from nami_jax.models.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig
from nami_jax.parallel.kept_programs import BoundedJit
from nami_jax.weights import open_tensors, save_tensors
from nami_jax.weights.autoencoder_keys import (
    export_autoencoder,
    load_autoencoder,
    read_autoencoder_config,
    released_autoencoder_config,
)

DTYPES = choices(ModelConfig, "dtype")
TILE = 128  # latents: 1024 pixels with a downscale of 8


class Autoencoder:
    """An `AutoencoderKL` for inference: NumPy arrays in and out, in as many pieces as memory requires.

    No call of the network sees more than tile² latents, so that it needs no more memory for a large batch or a large
    image than for one of `tile` x `tile`. Attention and group norms see their own tile only: a tiled result is close to
    an untiled one, not equal to it.

    Attributes:
        model: the network.
        tile: longest side that is computed in one piece, latents.
        downscale: pixels per latent, each way.
        channels: C of the latents.
    """

    def __init__(self, model: AutoencoderKL, *, tile: int = TILE):
        require(
            tile >= 8,
            field="tile",
            value=tile,
            rule="must be at least 8 latents, so that neighbours overlap",
            remedy=f"Set {TILE}",
        )
        self.model, self.tile = model, tile
        self.downscale, self.channels = model.cfg.downscale, model.cfg.latent_channels
        self._graphdef, self._params = nnx.split(model)

    @classmethod
    def from_folder(cls, folder: str | Path, dtype: str = "float32", *, tile: int = TILE) -> "Autoencoder":
        """Loads an autoencoder from config.json and safetensors files, as diffusers lays them out.

        Args:
            folder: e.g. `vae/` of a release.
            dtype: compute type, "float32" or "bfloat16".
            tile: longest side that is computed in one piece, latents.

        Raises:
            ConfigError: the folder or a file of it is missing, or config.json describes an unsupported variant.
            WeightsError: the weights do not fit config.json, or a shard is missing or damaged.
        """
        require(
            dtype in DTYPES,
            field="dtype",
            value=dtype,
            rule="is not a compute type",
            remedy=f"Set {' or '.join(map(repr, DTYPES))}",
        )
        folder = Path(folder)
        for pattern in ("config.json", "*.safetensors"):
            require(
                any(folder.glob(pattern)),
                field="autoencoder.folder",
                value=str(folder),
                rule=f"has no {pattern}",
                remedy="Use a diffusers vae folder: `python -m nami_jax.train --config configs/autoencoder_emoji.py "
                "--workdir FOLDER` trains one and writes FOLDER/vae, `python -m nami_jax.convert --from SOURCE --to "
                "FOLDER` takes over that of a run or a release",
            )
        cfg = _read_config(folder / "config.json")
        return cls(load_autoencoder(cfg, open_tensors(folder), jnp.dtype(dtype)), tile=tile)

    @classmethod
    def from_config(cls, cfg: AutoencoderConfig, model: ModelConfig) -> "Autoencoder":
        """Loads the autoencoder that a flow of latents was or will be trained with; it computes in the model's dtype.

        Raises:
            ConfigError: it has another number of channels or another downscale than the settings say, or the folder is
                not usable.
            WeightsError: as `from_folder`.
        """
        require(
            cfg.folder is not None,
            field="autoencoder.folder",
            value=cfg.folder,
            rule="the flow is one of pixels, without an autoencoder",
            remedy="Set the autoencoder's folder",
        )
        autoencoder = cls.from_folder(str(cfg.folder), model.dtype)
        for field, value, own in (
            ("autoencoder.downscale", cfg.downscale, autoencoder.downscale),
            ("model.channels", model.channels, autoencoder.channels),
        ):
            require(
                value == own,
                field=field,
                value=value,
                rule=f"the autoencoder in {cfg.folder} has {own}",
                remedy=f"Set {own}, or another autoencoder.folder",
            )
        return autoencoder

    def encode(self, images: Any) -> np.ndarray:
        """Encodes images to the latents that the flow models.

        They are the posterior's mean, not a draw from it: preparing a data set again gives the same data, and no noise
        is added that the decoder would have to remove.

        Args:
            images: (B, H, W, 3), floating point in [-1, 1]; H and W are multiples of `downscale`.

        Returns:
            (mean - shift_factor) scaling_factor, (B, h, w, C) float32.

        Raises:
            ConfigError: images are integers, or of another shape.
        """
        images = np.asarray(images)
        require(
            images.ndim == 4 and images.shape[3] == 3 and not any(n % self.downscale for n in images.shape[1:3]),
            field="images.shape",
            value=images.shape,
            rule=f"must be (B, H, W, 3) with sides that are multiples of {self.downscale}",
            remedy="Crop or resize them",
        )
        require(
            not np.issubdtype(images.dtype, np.integer),
            field="images.dtype",
            value=images.dtype.name,
            rule="must be floating point in [-1, 1]",
            remedy="Divide bytes by 127.5 and subtract 1",
        )
        return tiled(functools.partial(self._run, encode_images, self.downscale), images, self.tile, self.downscale, 1)

    def decode(self, latents: Any) -> np.ndarray:
        """Decodes latents as `encode` returns them, or as the flow samples them.

        Args:
            latents: (B, h, w, C), scaled.

        Returns:
            Images (B, H, W, 3) float32, about in [-1, 1] and not clipped.

        Raises:
            ConfigError: latents have another shape.
        """
        latents = np.asarray(latents)
        require(
            latents.ndim == 4 and latents.shape[3] == self.channels,
            field="latents.shape",
            value=latents.shape,
            rule=f"must be (B, h, w, {self.channels})",
            remedy="Use the autoencoder that the latents belong to",
        )
        return tiled(functools.partial(self._run, decode_latents, 1), latents, self.tile, 1, self.downscale)

    def compile_decoding(self, shape: tuple[int, ...]) -> None:
        """Compiles what `decode` runs for latents of this shape (B, h, w, C), and runs nothing."""
        height, width = (min(side, self.tile) for side in shape[1:3])
        batch = jax.ShapeDtypeStruct((self._at_once(shape[0], height * width), height, width, shape[3]), jnp.float32)
        with jax.default_matmul_precision("float32"):
            decode_latents.compile(self._graphdef, self._params, batch)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A sha256 of weights and factors, whatever the files that they are stored in and whatever the compute type."""
        fields = released_autoencoder_config(self.model.cfg)
        del fields["sample_size"]  # which changes no result
        digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
        for key, tensor in sorted(export_autoencoder(self.model).items()):
            digest.update(f"{key} {tensor.shape} {tensor.dtype}".encode())
            digest.update(tensor.tobytes())
        return digest.hexdigest()

    def _at_once(self, count: int, latents: int) -> int:
        return min(count, max(1, self.tile**2 // latents))

    def _run(self, function: Callable[..., jax.Array], scale: int, inputs: np.ndarray) -> np.ndarray:
        """Runs `function` on as many images a call as hold tile² latents.

        The last call is filled up with repeated images, so that one shape compiles.

        Args:
            function: `encode_images` or `decode_latents`.
            scale: entries of `inputs` per latent, each way.
            inputs: (B, H, W, channels).
        """
        at_once = self._at_once(len(inputs), inputs.shape[1] * inputs.shape[2] // scale**2)
        outputs = []
        for start in range(0, len(inputs), at_once):
            batch = inputs[start : start + at_once].astype(np.float32)
            batch = np.concatenate([batch, np.repeat(batch[:1], at_once - len(batch), axis=0)])
            # In full float32 on every platform: prepared latents are not to depend on where they were made.
            with jax.default_matmul_precision("float32"):
                outputs.append(np.asarray(function(self._graphdef, self._params, batch)))
        return np.concatenate(outputs)[: len(inputs)]


# Jitted here and not in the class, so that another instance of the same sizes (a preview of newer weights) compiles
# nothing.
@BoundedJit
def encode_images(graphdef: nnx.GraphDef, params: nnx.State, images: jax.Array) -> jax.Array:
    """Maps images (B, H, W, 3) to scaled latents (B, h, w, C), float32."""
    model = nnx.merge(graphdef, params)
    mean, _ = model.encode(images)
    return (mean - (model.cfg.shift_factor or 0.0)) * model.cfg.scaling_factor


@BoundedJit
def decode_latents(graphdef: nnx.GraphDef, params: nnx.State, latents: jax.Array) -> jax.Array:
    """Maps scaled latents (B, h, w, C) to images (B, H, W, 3), float32."""
    model = nnx.merge(graphdef, params)
    return model.decode(latents / model.cfg.scaling_factor + (model.cfg.shift_factor or 0.0))


def _read_config(path: Path) -> AutoencoderKLConfig:
    fields = read_json(path, "Fetch it again")
    try:
        return read_autoencoder_config(fields)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def save_autoencoder(folder: str | Path, model: AutoencoderKL) -> None:
    """Writes config.json and diffusion_pytorch_model.safetensors, which diffusers and `Autoencoder` read."""
    config = Path(folder) / "config.json"
    # Away first and back last, since a folder without it is refused: an interrupted save is never taken for a complete
    # one, nor its weights for those of the scaling that an earlier save left.
    config.unlink(missing_ok=True)
    save_tensors(export_autoencoder(model), config.parent, "diffusion_pytorch_model")
    with written_whole(config) as unfinished:
        unfinished.write_text(json.dumps(released_autoencoder_config(model.cfg), indent=2) + "\n")
