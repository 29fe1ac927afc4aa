"""Text to images in one call: text encoder, sampler, autoencoder and the conversion to pictures behind one object."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Unpack

import jax
import numpy as np

from nami_jax.config import (
    DrawConfig,
    PresetPrompt,
    SampleChanges,
    SampleConfig,
    require,
    sample_preset,
)
from nami_jax.config import preset_prompt as preset_texts
from nami_jax.flow.transition import Transition, make_transition
from nami_jax.sampling.drawings import Drawing, finish, require_together
from nami_jax.sampling.loaded import LoadedModel
from nami_jax.sampling.prompts import GivenStates, read_texts
from nami_jax.sampling.sampler import Request, Watching
from nami_jax.sampling.source_pictures import read_sources
from nami_jax.sampling.stage_programs import Networks
from nami_jax.text.encoders import TextStates

# (pipeline, number of the step, 1000 times the global time, {"latents": ...}) -> such a mapping, or None.
Callback = Callable[[Any, int, float, dict[str, Any]], Any]
# (pipeline, number of the stage, from 1 on, its pictures).
StageCallback = Callable[[Any, int, Any], Any]


class NamiPipeline(LoadedModel):
    """A trained model ready to draw.

    Examples:
        >>> pipe = NamiPipeline.from_pretrained("runs/emoji_tiny")
        >>> pipe("red apple", steps=(10, 10, 10), guidance_scale=3.0, seed=0)[0].save("apple.png")
    """

    def __call__(
        self,
        prompts: str | Sequence[str] | None = None,
        *,
        negative_prompt: str | Sequence[str] | None = None,
        preset: str | None = None,
        preset_prompt: bool = True,
        image: Any = None,
        strength: float | None = None,
        mask: Any = None,
        edit: str | Sequence[str] | None = None,
        prompt_embeds: Any = None,
        pooled_prompt_embeds: Any = None,
        negative_prompt_embeds: Any = None,
        negative_pooled_prompt_embeds: Any = None,
        height: int | None = None,
        width: int | None = None,
        seed: int = 0,
        num_images: int = 1,
        batch_size: int = 32,
        output_type: str = "pil",
        return_stages: bool = False,
        callback_on_step_end: Callback | None = None,
        callback_on_stage_end: StageCallback | None = None,
        progress: bool = False,
        **sample: Unpack[SampleChanges],
    ) -> Any:
        """Draws `num_images` pictures of each prompt, from noise or from a picture.

        Noise is keyed by the seed and the picture's number among its prompt's, so a picture does not depend on the
        other prompts, on `num_images` or on `batch_size` (beyond the rounding of other matrix shapes).

        Args:
            prompts: one text or several; those longer than the text window are truncated, with a warning. None where
                `prompt_embeds` are given.
            negative_prompt: what guidance steers away from, one text for all prompts or one for each; None: the
                preset's, or the empty text, which training dropped captions to.
            preset: a named set of sampler settings, for a budget ("fast", "balanced", "best") or the released model's
                own ("released"); None: the model's defaults.
            preset_prompt: False leaves out what the preset adds to prompts, and its negative prompt.
            image: what to begin from: a PIL image, a path or an array (H, W, 3), or one of these for each prompt.
            strength: the global time in (0, 1], 1 being noise, from which an image is drawn anew; None: 0.75, or 1 with
                a mask.
            mask: white (or true) where `image` is drawn anew; the rest stays as it is, exactly. As `image`, of one
                channel.
            edit: what `image` shows, one text for all prompts or one for each: `image` is changed by what differs
                between that text and the prompt (FlowEdit, arXiv 2412.08629).
            prompt_embeds: (B, T, D) token states in place of prompts, with `pooled_prompt_embeds`.
            pooled_prompt_embeds: (B, P).
            negative_prompt_embeds: (B, T, D) or (1, T, D) in place of `negative_prompt`, with their pooled vectors.
            negative_pooled_prompt_embeds: (B, P) or (1, P).
            height: of the pictures, pixels; height and width default to the side trained at.
            width: of the pictures, pixels.
            seed: of the noise.
            num_images: per prompt.
            batch_size: pictures drawn at once, at most; fewer are filled up to a power of two.
            output_type: "pil", "np" for an array (N, H, W, 3) of numbers in [0, 1], or "latent" for the latents
                (N, h, w, C).
            return_stages: return what each stage ended in, at its own size and without the noise that was still in it.
            callback_on_step_end: called after each step with the pipeline, the step's number from 0 on, 1000 times the
                global time where it ended, and {"latents": those of the batch}; latents in the mapping that it returns
                take their place. Steps are then programs of their own; what it raises ends the call.
            callback_on_stage_end: called after each stage with the pipeline, the stage's number from 1 on and a batch's
                pictures of that stage, as `return_stages` has them; what it raises ends the call.
            progress: show bars; that over the steps moves at the end of each stage, with a callback after each step.
            **sample: fields of `SampleConfig` in place of the preset's or the model's: `steps` per stage,
                `guidance_scale` (one number, or one per stage; 1 or less means no guidance, at half the cost),
                `guidance_interval`, `guidance_rescale`, `cfg_zero_star`, `zero_init_steps`, `grid`, `shift`, `taus`,
                `solver`, `transition`.

        Returns:
            Pictures, those of the first prompt first, in a list or an array; with `return_stages` a list of these, the
            coarsest stage's first.

        Raises:
            ConfigError: an empty prompt, steps of the wrong length, a value of the wrong type or out of range, a size
                that the stages, the patches or the bridge do not support, or arguments that do not go together.
            WeightsError: the weights give numbers that are no pictures, NaN or infinite.
        """
        draw = DrawConfig.from_dict(
            {"height": height, "width": width, "seed": seed, "num_images": num_images, "batch_size": batch_size}
            | {"output_type": output_type, "return_stages": return_stages, "preset_prompt": preset_prompt}
        )
        settings, size = self.settings(preset, **sample), self._size(draw)
        transition = self._check(settings, *size)  # before the encoder is loaded
        given = GivenStates(prompt_embeds, pooled_prompt_embeds, negative_prompt_embeds, negative_pooled_prompt_embeds)
        added = preset_texts(preset) if draw.preset_prompt else PresetPrompt()
        wanted = read_texts(prompts, negative_prompt, edit, given, added, self.cfg.model)
        needing = {"strength": strength, "mask": mask, "edit": edit}
        require_together(image, needing, callback_on_step_end, callback_on_stage_end)
        sources = None if image is None else read_sources(image, mask, strength, wanted.count, size)
        self.sampler.plans(settings, 1.0 if sources is None else sources.strength)  # some step is to be done
        on_step = callback_on_step_end and functools.partial(_on_step, self, callback_on_step_end)
        watching = Watching(progress, on_step)
        drawing = Drawing(self.sampler, Networks(self.model, transition), settings, self._latents_size(*size), watching)
        source = None if sources is None else sources.latents(self.autoencoder)
        texts = wanted.encoded(self.encode)
        told = callback_on_stage_end and functools.partial(callback_on_stage_end, self)
        batches = drawing.batches(texts, source, draw, draw.return_stages or told is not None)
        return finish(batches, sources, self.pixels, draw, told)

    def settings(self, preset: str | None = None, **given: Any) -> SampleConfig:
        """Returns the sampler's settings: the preset's, or the model's own, with those in `given` that are not None.

        Raises:
            ConfigError: there is no such preset, or a value that cannot work.
        """
        own = self.cfg.sample
        return (own if preset is None else sample_preset(preset, own)).changed(given)

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
        height, width = self._size(draw)
        networks = Networks(self.model, self._check(sample, height, width))
        numbers = range(len(text.pooled)) if numbers is None else numbers
        request = Request(*self._latents_size(height, width), draw.seed, numbers, initial)
        return self.sampler(networks, text, negative, sample, request, Watching(progress))

    def _size(self, draw: DrawConfig) -> tuple[int, int]:
        """Returns the height and the width of the pictures, pixels."""
        height, width = (self.cfg.side if side is None else side for side in (draw.height, draw.width))
        return height, width

    def _latents_size(self, height: int, width: int) -> tuple[int, int]:
        """Returns the height and the width of the latents of pictures of that size."""
        downscale = self.cfg.autoencoder.downscale
        return height // downscale, width // downscale

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


def _on_step(pipe: NamiPipeline, callback: Callback, step: int, time: float, latents: jax.Array) -> Any:
    """Calls a callback as diffusers does; returns the latents that take the place of those given, or None."""
    returned = callback(pipe, step, 1000 * time, {"latents": latents})
    return None if returned is None else returned.get("latents")
