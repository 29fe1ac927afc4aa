"""A random autoencoder with two pixels per latent, the config of a run on it, and files that sources are made of."""

import dataclasses
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from flax import nnx
from PIL import Image

from nami_jax.autoencoder.codec import save_autoencoder
from nami_jax.config import Config
from nami_jax.models.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig
from tests.support.sizes import make_config

SQUARE, WIDE = (16, 16), (16, 32)  # buckets


@pytest.fixture(scope="session")
def autoencoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("autoencoder")
    sizes = AutoencoderKLConfig(
        block_out_channels=(4, 4), latent_channels=4, norm_num_groups=2, mid_block_add_attention=False
    )
    save_autoencoder(folder, AutoencoderKL(sizes, rngs=nnx.Rngs(0)))
    return folder


@pytest.fixture(scope="session")
def latent_config(autoencoder_folder: Path) -> Config:
    """A run on latents of two buckets, not prepared yet."""
    return make_config(
        model={"channels": 4, "double_blocks": 0, "stage_single_blocks": (1, 1, 1), "text_dim": 384, "pooled_dim": 384},
        data={"prepared": "to be set", "buckets": (SQUARE, WIDE), "caption_templates": ("{}", "a {}")},
        autoencoder={"folder": str(autoencoder_folder), "downscale": 2},
    )


@pytest.fixture(scope="session")
def data_fields() -> Callable[..., Config]:
    """Sets fields of the data section."""

    def replaced(cfg: Config, **fields: Any) -> Config:
        return dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, **fields))

    return replaced


def png(width: int = 24, height: int = 20, colour: str = "red", **options: Any) -> bytes:
    """A plain picture, by default one that is nearer to a square than to 2:1."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG", **options)
    return buffer.getvalue()


def write_lines(folder: Path, lines: Sequence[dict[str, Any] | bytes]) -> None:
    """Writes a metadata.jsonl; bytes go in as they are."""
    encoded = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    (folder / "metadata.jsonl").write_bytes(b"\n".join(encoded) + b"\n")


def files_below(folder: Path, *parts: str) -> dict[str, bytes]:
    """Returns the content of every file below some folders in `folder`."""
    found = (path for part in parts for path in (folder / part).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}
