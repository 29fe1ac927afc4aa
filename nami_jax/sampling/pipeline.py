"""Text to images in one call: text encoder, sampler, autoencoder and the conversion to pictures behind one object."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from nami_jax.autoencoder.codec import Autoencoder
from nami_jax.checkpoints.same_run import AUTOENCODER, TEXT_ENCODER, require_same_networks
from nami_jax.config import (
    DrawConfig,
    MeshConfig,
    PipelineConfig,
    SampleConfig,
    require,
    sample_preset,
)
from nami_jax.flow.transition import Transition, make_transition
from nami_jax.models.bridge import AnyBridge
from nami_jax.models.layout import ONE_DEVICE, Layout
from nami_jax.models.nami import Nami
from nami_jax.parallel.activations import MeshLayout
from nami_jax.parallel.sharding import make_mesh, state_shardings
from nami_jax.sampling.parts import REMEDY, load_parts
from nami_jax.sampling.pictures import to_images
from nami_jax.sampling.prompts import check_prompts, picture_batches
from nami_jax.sampling.sampler import Request, Watching, make_sampler
from nami_jax.sampling.stage_programs import Networks
from nami_jax.text.encoder_files import encoder_id
from nami_jax.text.encoders import TextEncoder, TextStates, load_text_encoder
from nami_jax.weights import WeightsError


class NamiPipeline:
    """A trained model ready to draw.

    Example:
        >>> pipe = NamiPipeline.from_pretrained("runs/emoji_tiny")
        >>> pipe("red apple", steps=(10, 10, 10), guidance_scale=3.0, seed=0)[0].save("apple.png")
    """

    def __init__(
        self,
        model: Nami,
        cfg: PipelineConfig,
        load_encoder: Callable[[], TextEncoder],
        *,
        autoencoder: Autoencoder | None = None,
        bridge: AnyBridge | None = None,
        source: str = "",
        keep_encoder: bool = True,
        layout: Layout = ONE_DEVICE,
    ):
        """Puts the parts together.

        Args:
            model: the network.
            cfg: its settings.
            load_encoder: makes the text encoder, when prompts are first encoded.
            autoencoder: between pixels and latents; None for a model of pixels.
            bridge: the learned transition, if the model has one.
            source: where all this comes from, for the pictures' metadata.
            keep_encoder: whether the text encoder stays in memory once it has encoded.
            layout: how pictures and the network are spread over devices.
        """
        self.model, self.cfg, self.source = model, cfg, source
        self.autoencoder, self.bridge, self.keep_encoder = autoencoder, bridge, keep_encoder
        self._load_encoder, self._encoder = load_encoder, None
        self.sampler = make_sampler(model.cfg, cfg.flow.sigma_ends, layout)

    def __repr__(self) -> str:
        """Says what it draws, and with what."""
        cfg, sizes = self.cfg, [leaf.size for leaf in jax.tree.leaves(nnx.state(self.model, nnx.Param))]
        return (
            f"NamiPipeline({self.source or 'no source'}: {sum(sizes):,} parameters, {cfg.model.num_stages} stages, "
            f"{cfg.side}x{cfg.side} pixels, text by {cfg.text.encoder}, {cfg.sample})"
        )

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        step: int | None = None,
        *,
        dtype: str | None = None,
        keep_encoder: bool = True,
        mesh: MeshConfig | None = None,
    ) -> Self:
        """Loads a training run or a folder of converted weights; everything is read from there.

        Args:
            path: a run's workdir, or a folder that `nami_jax.convert` wrote.
            step: which checkpoint of a run; None takes the newest.
            dtype: compute type of all networks, "float32" or "bfloat16", in which converted weights are also held;
                None: as configured.
            keep_encoder: False frees the text encoder after each use, which leaves its memory to the network.
            mesh: draw on all devices, arranged so; pictures go to (data, fsdp), a picture's tokens to `sequence`. None:
                on the first device.

        Raises:
            CheckpointError: a run has no finished checkpoint, or it cannot be read.
            ConfigError: a part is missing, or the autoencoder is another than the run was trained with; of the text
                encoder this is raised when prompts are first encoded.
            WeightsError: weights are missing or damaged.
        """
        require(
            isinstance(path, str | Path),
            field="path",
            value=path,
            rule="must be a path",
            remedy=REMEDY,
        )
        path = Path(path)
        devices = make_mesh(devices=jax.devices()[:1]) if mesh is None else make_mesh(mesh)
        shardings = None if mesh is None else functools.partial(state_shardings, mesh=devices)
        model, cfg, bridge, source, frozen = load_parts(path, step, dtype, shardings)
        compute = jnp.dtype(cfg.model.dtype)
        autoencoder = None if cfg.autoencoder.folder is None else Autoencoder.from_config(cfg.autoencoder, cfg.model)
        if autoencoder is not None and AUTOENCODER in frozen:
            require_same_networks(frozen, {AUTOENCODER: autoencoder.fingerprint}, path)

        def load_encoder() -> TextEncoder:
            if TEXT_ENCODER in frozen:
                require_same_networks(frozen, {TEXT_ENCODER: encoder_id(cfg.text)}, path)
            return load_text_encoder(cfg.text, dtype=compute)

        return cls(
            model,
            cfg,
            load_encoder,
            autoencoder=autoencoder,
            bridge=bridge,
            source=source,
            keep_encoder=keep_encoder,
            layout=MeshLayout(devices),
        )

    def __call__(
        self,
        prompts: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] = "",
        preset: str | None = None,
        steps: Sequence[int] | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        guidance_interval: Sequence[float] | None = None,
        guidance_rescale: float | None = None,
        cfg_zero_star: bool | None = None,
        zero_init_steps: int | None = None,
        grid: str | None = None,
        shift: float | None = None,
        taus: Sequence[Sequence[float]] | None = None,
        solver: str | None = None,
        transition: str | None = None,
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
            prompts: one text or several; those longer than the text window are truncated, with a warning.
            negative_prompt: what guidance steers away from, one text for all prompts or one for each; the empty text is
                what training dropped captions to.
            preset: a named set of what follows up to `transition`, for a budget ("fast", "balanced", "best") or the
                released model's own ("released"); None: the model's defaults.
            steps: solver steps per stage; this and what follows up to `transition` replace what the preset says.
            guidance_scale: one number, or one per stage; 1 means no guidance, at half the cost.
            guidance_interval: global times between which there is guidance; steps that begin outside cost half.
            guidance_rescale: 0 to 1, how far guidance gives back the velocity's own spread.
            cfg_zero_star: scale the unconditional velocity to fit the conditional one best.
            zero_init_steps: how many first steps of the first stage are left out, as if the velocity were 0.
            grid: "linear" or "released".
            shift: above 1 the steps at the start of each stage are shorter, below 1 those at its end.
            taus: local times of each stage, falling from 1 to 0, in place of `steps`, `grid` and `shift`.
            solver: "euler", "heun", "midpoint" or "ab2".
            transition: "renoise" or "bridge", the jump between stages.
            height: of the pictures, pixels; height and width default to the side trained at.
            width: of the pictures, pixels.
            seed: of the noise.
            num_images: per prompt.
            batch_size: pictures drawn at once, at most; fewer are filled up to a power of two.
            progress: show bars.

        Returns:
            Pictures, those of the first prompt first.

        Raises:
            ConfigError: an empty prompt, steps of the wrong length, a value of the wrong type or out of range, or a
                size that the stages, the patches or the bridge do not support.
            WeightsError: the weights give numbers that are no pictures, NaN or infinite.
        """
        prompts, negatives = check_prompts(prompts, negative_prompt)
        draw = DrawConfig.from_dict(
            {"height": height, "width": width, "seed": seed, "num_images": num_images, "batch_size": batch_size}
        )
        sample = self.settings(
            preset,
            steps=steps,
            guidance_scale=guidance_scale,
            guidance_interval=guidance_interval,
            guidance_rescale=guidance_rescale,
            cfg_zero_star=cfg_zero_star,
            zero_init_steps=zero_init_steps,
            grid=grid,
            shift=shift,
            taus=taus,
            solver=solver,
            transition=transition,
        )
        height, width = (self.cfg.side if side is None else side for side in (draw.height, draw.width))
        self._check(sample, height, width)  # before the encoder is loaded
        text, negative = self.encode([*prompts, *negatives], split=len(prompts))
        rows = np.repeat(np.arange(len(prompts)), draw.num_images)
        numbers = np.tile(np.arange(draw.num_images), len(prompts))
        pictures: list[Image.Image] = []
        for some, count in picture_batches(len(rows), draw.batch_size, progress):
            latents = self.sample_latents(
                _pick(text, rows[some]),
                negative if len(negatives) == 1 else _pick(negative, rows[some]),
                sample,
                height=height,
                width=width,
                seed=draw.seed,
                numbers=numbers[some].tolist(),
                progress=progress,
            )
            pictures += self.decode(latents)[:count]
        return pictures

    def settings(self, preset: str | None = None, **given: Any) -> SampleConfig:
        """Returns the sampler's settings: the preset's, or the model's own, with those in `given` that are not None.

        Raises:
            ConfigError: there is no such preset, or a value that cannot work.
        """
        own = self.cfg.sample
        return (own if preset is None else sample_preset(preset, own)).changed(given)

    def encode(self, prompts: Sequence[str], split: int) -> tuple[TextStates, TextStates]:
        """Encodes prompts, loading the text encoder if it is not in memory; returns the first `split` and the rest."""
        encoder = self._encoder or self._load_encoder()
        self._encoder = encoder if self.keep_encoder else None
        states = encoder(prompts)
        if not all(np.isfinite(part).all() for part in states):
            raise WeightsError(
                "the text encoder gives states that are not finite: its weights are damaged, or too large for the "
                "compute type. Fetch them again, or set another dtype."
            )
        return TextStates(*(x[:split] for x in states)), TextStates(*(x[split:] for x in states))

    def free_encoder(self) -> None:
        """Drops the text encoder from memory; the next prompts load it again."""
        self._encoder = None

    def sample_latents(
        self,
        text: TextStates,
        negative: TextStates,
        sample: SampleConfig | None = None,
        *,
        height: int | None = None,
        width: int | None = None,
        seed: int = 0,
        numbers: Sequence[int] | None = None,
        initial: Any = None,
        progress: bool = False,
    ) -> np.ndarray:
        """Samples latents (pixels, for a model of pixels) from given text states.

        Args:
            text: embeds (B, T, D) and pooled (B, P) of the prompts.
            negative: the same of the negative prompts, batch B or 1.
            sample: the sampler's settings; None: the model's own.
            height: of the pictures, pixels; height and width default to the side trained at.
            width: of the pictures, pixels.
            seed: of the noise.
            numbers: (B,) numbers of the images, which key their noise; None counts them.
            initial: (B, H_1, W_1, C) standard normal latents of the first stage; None draws them.
            progress: show a bar over the stages.

        Returns:
            (B, height / downscale, width / downscale, C) float32.

        Raises:
            ConfigError: a size or settings that cannot work.
        """
        sample = sample or self.cfg.sample
        draw = DrawConfig.from_dict({"height": height, "width": width, "seed": seed})
        height, width = (self.cfg.side if side is None else side for side in (draw.height, draw.width))
        networks, downscale = Networks(self.model, self._check(sample, height, width)), self.cfg.autoencoder.downscale
        numbers = range(len(text.pooled)) if numbers is None else numbers
        request = Request(height // downscale, width // downscale, draw.seed, numbers, initial)
        return self.sampler(networks, text, negative, sample, request, Watching(progress))

    def decode(self, latents: Any) -> list[Image.Image]:
        """Turns latents (B, h, w, C) into pictures.

        Raises:
            WeightsError: the latents, or the pixels made of them, are not finite.
        """
        what, pixels = "latents", np.asarray(latents)
        if self.autoencoder is not None and np.isfinite(pixels).all():
            what, pixels = "pixels", np.asarray(self.autoencoder.decode(pixels))
        if not np.isfinite(pixels).all():
            network = "network" if what == "latents" else "autoencoder"
            raise WeightsError(
                f"the {network} of {self.source or 'this pipeline'} gives {what} that are not finite, and no picture: "
                "its weights are damaged or diverged, or guidance_scale is too large. Use an earlier checkpoint "
                "(step), fetch the weights again, or set guidance_scale = 3."
            )
        return to_images(pixels)

    def _check(self, sample: SampleConfig, height: int, width: int) -> Transition:
        """Checks a request before anything is compiled; returns what makes the jumps."""
        require(
            sample.transition != "bridge" or self.bridge is not None,
            field="transition",
            value="bridge",
            rule="this model has no bridge",
            remedy="Set 'renoise'",
        )
        require(
            sample.grid != "released" or self.cfg.flow.sigma_ends is None,
            field="grid",
            value=sample.grid,
            rule="the released grid works only with the default flow.sigma_ends",
            remedy="Set 'linear'",
        )
        transition = make_transition(self.bridge if sample.transition == "bridge" else None, self.cfg.bridge.noise)
        downscale = self.cfg.autoencoder.downscale
        self.sampler.check(sample, transition, height, width, downscale)
        lengths = self.model.cfg.image_tokens(height // downscale, width // downscale)
        self.sampler.layout.require_tokens(lengths, self.cfg.text.max_length)
        return transition


def _pick(states: TextStates, rows: np.ndarray) -> TextStates:
    return TextStates(states.embeds[rows], states.pooled[rows])
