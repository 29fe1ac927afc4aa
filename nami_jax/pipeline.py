"""Text to images in one call: the text encoder, the sampler and the conversion to pictures behind one object."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import jax
import numpy as np
from flax import nnx
from PIL import Image
from tqdm import tqdm

from nami_jax.checkpoint import Checkpoints
from nami_jax.config import Config, ConfigError, require
from nami_jax.models.nami import Nami, abstract_model
from nami_jax.pictures import to_images
from nami_jax.sampler import check_request, sample_latents
from nami_jax.text import TextEncoder, TextStates, load_text_encoder


class NamiPipeline:
    """A trained model ready to draw.

    Example:
        >>> pipe = NamiPipeline.from_pretrained("runs/emoji_tiny")
        >>> pipe("red apple", steps=(10, 10, 10), guidance_scale=3.0, seed=0)[0].save("apple.png")
    """

    def __init__(self, model: Nami, cfg: Config, encoder: TextEncoder, source: str):
        """Puts the parts together; `source` says where they come from, for the pictures' metadata."""
        self.model = model
        self.cfg = cfg
        self.encoder = encoder
        self.source = source

    @classmethod
    def from_pretrained(cls, path: str | Path, step: int | None = None) -> Self:
        """Loads the EMA weights of a training run; everything else is read from the checkpoint.

        Args:
            path: the run's workdir.
            step: which checkpoint; None takes the newest.

        Raises:
            CheckpointError: there is no finished checkpoint, or it cannot be read.
        """
        with Checkpoints(Path(path)) as checkpoints:
            step = checkpoints.latest_step() if step is None else step
            cfg = checkpoints.config(step)
            graphdef, shapes = abstract_model(cfg.model)
            device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
            shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), shapes)
            model = nnx.merge(graphdef, checkpoints.ema(step, shapes))
        return cls(model, cfg, load_text_encoder(cfg.text), f"{path} step {step}")

    def __call__(
        self,
        prompts: str | Sequence[str],
        *,
        negative_prompt: str = "",
        steps: Sequence[int] | None = None,
        guidance_scale: float | None = None,
        grid: str | None = None,
        solver: str | None = None,
        height: int | None = None,
        width: int | None = None,
        seed: int = 0,
        num_images: int = 1,
        batch_size: int = 32,
        progress: bool = False,
    ) -> list[Image.Image]:
        """Draws `num_images` pictures of each prompt.

        Noise is keyed by the seed and the picture's number among its prompt's, so a picture does not depend on the
        other prompts, on `num_images` or on `batch_size` (beyond the rounding of other matrix shapes).

        Args:
            prompts: one text or several; longer ones than the text window are cut, with a warning.
            negative_prompt: what guidance leads away from; the empty text is what training dropped captions to.
            steps: solver steps per stage; this and the next three default to the run's `sample` settings.
            guidance_scale: 1 is no guidance.
            grid: "linear" or "released".
            solver: "euler" or "heun".
            height: of the pictures, pixels; height and width default to the side trained at.
            width: of the pictures, pixels.
            seed: of the noise.
            num_images: per prompt.
            batch_size: pictures drawn at once.
            progress: show bars.

        Returns:
            Pictures, those of the first prompt first.

        Raises:
            ConfigError: an empty prompt, steps of the wrong length, or a size that the stages or patches do not divide.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        self._check(prompts, num_images, batch_size)
        given = {
            "guidance_scale": guidance_scale,
            "grid": grid,
            "solver": solver,
            "steps": None if steps is None else tuple(steps),
        }
        sample = dataclasses.replace(self.cfg.sample, **{k: v for k, v in given.items() if v is not None})
        side = self.cfg.data.side
        height, width = side if height is None else height, side if width is None else width
        check_request(self.model.cfg, sample, height, width)

        text, negative = self.encoder(prompts), self.encoder([negative_prompt])
        rows = np.repeat(np.arange(len(prompts)), num_images)
        numbers = np.tile(np.arange(num_images), len(prompts))
        pictures: list[Image.Image] = []
        starts = range(0, len(rows), batch_size)
        for start in tqdm(starts, "batches", disable=not progress or len(starts) == 1):
            some = slice(start, start + batch_size)
            pixels = sample_latents(
                self.model, TextStates(text.embeds[rows[some]], text.pooled[rows[some]]), negative, sample,
                height=height, width=width, seed=seed, numbers=numbers[some].tolist(),
                sigma_ends=self.cfg.flow.sigma_ends, progress=progress,
            )  # fmt: skip
            pictures += to_images(np.asarray(pixels))
        return pictures

    def _check(self, prompts: Sequence[str], num_images: int, batch_size: int) -> None:
        if not prompts or not all(prompt.strip() for prompt in prompts):
            raise ConfigError(f"prompts = {prompts!r}: a prompt is empty. Say what to draw, e.g. 'red apple'.")
        require(num_images >= 1, "num_images", num_images, "must be at least 1", "Set e.g. 4")
        require(batch_size >= 1, "batch_size", batch_size, "must be at least 1", "Set e.g. 8")
