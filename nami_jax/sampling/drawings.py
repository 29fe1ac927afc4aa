"""What a call of the pipeline draws, batch by batch, and what becomes of the latents."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from nami_jax.config import DrawConfig, SampleConfig, require
from nami_jax.sampling.flow_edit import edited_stages
from nami_jax.sampling.pictures import to_images
from nami_jax.sampling.prompts import Texts, picture_batches, rows
from nami_jax.sampling.sampler import Request, Sampler, Watching
from nami_jax.sampling.source_paths import Source
from nami_jax.sampling.source_pictures import SourcePictures
from nami_jax.sampling.stage_programs import Networks, estimate_clean
from nami_jax.text.encoders import TextStates

Decode = Callable[[np.ndarray], np.ndarray]  # latents (B, h, w, C) -> pixels (B, H, W, 3) in [-1, 1]
Batch = tuple[np.ndarray, list[np.ndarray]]  # of which prompt each picture is (B,), and the latents of its stages


class Drawing(NamedTuple):
    """How pictures are drawn, whatever they show.

    Attributes:
        sampler: of the networks.
        networks: the network, and the transition.
        settings: of the sampler.
        size: height and width of the latents.
        watching: what is told of the steps.
    """

    sampler: Sampler
    networks: Networks
    settings: SampleConfig
    size: tuple[int, int]
    watching: Watching

    def batches(self, texts: Texts, source: Source | None, draw: DrawConfig) -> Iterator[Batch]:
        """Draws all pictures of a call.

        Args:
            texts: states of P prompts.
            source: P known pictures, or one; None: there are none.
            draw: what is asked for.

        Yields:
            (B,) of which prompt each picture is, and the clean latents (B, h_k, w_k, C) of every stage that is run,
            coarsest first; of the last one alone without `return_stages`.
        """
        prompts = np.repeat(np.arange(len(texts.prompts.pooled)), draw.num_images)
        numbers = np.tile(np.arange(draw.num_images), len(texts.prompts.pooled))
        for some, count in picture_batches(len(prompts), draw.batch_size, self.watching.progress):
            which = prompts[some]
            begun = None if source is None else source.rows(which)
            request = Request(*self.size, draw.seed, numbers[some].tolist(), source=begun)
            chosen = Texts(
                _of(texts.prompts, which),
                _of(texts.negatives, which),
                None if texts.edited is None else _of(texts.edited, which),
            )
            stages = self._stages(chosen, request, draw.return_stages)
            yield which[:count], [latents[:count] for latents in stages]

    def _stages(self, texts: Texts, request: Request, every: bool) -> list[np.ndarray]:
        arguments = self.networks, texts.prompts, texts.negatives, self.settings, request
        if texts.edited is not None:
            stages = edited_stages(self.sampler, self.networks, texts, self.settings, request, self.watching)
            return stages if every else stages[-1:]
        if not every:
            return [self.sampler(*arguments, self.watching)]
        ends = self.sampler.stage_ends(*arguments, self.watching)
        stages, white = self.sampler.stages[-len(ends) :], self.networks.transition.needs_noise
        clean = [estimate_clean((stage, white, self.sampler.layout), x) for stage, x in zip(stages, ends, strict=True)]
        return [self.sampler.fetched(latents, len(request.numbers)) for latents in clean]


def _of(states: TextStates, which: np.ndarray) -> TextStates:
    return states if len(states.pooled) == 1 else rows(states, which)


def finish(batches: Iterable[Batch], sources: SourcePictures | None, decode: Decode, draw: DrawConfig) -> Any:
    """Turns latents into what a call returns, batch by batch: see `NamiPipeline.__call__`."""

    def finished(latents: np.ndarray, which: np.ndarray) -> Any:
        if draw.output_type == "latent":
            return latents
        pixels = decode(latents)
        if sources is not None and pixels.shape[1:] == sources.levels.shape[1:]:
            pixels = sources.keep(pixels, which)
        return to_images(pixels) if draw.output_type == "pil" else np.clip((pixels + np.float32(1)) / 2, 0, 1)

    parts = [[finished(latents, which) for latents in stages] for which, stages in batches]
    join = np.concatenate if draw.output_type != "pil" else lambda lists: list(itertools.chain.from_iterable(lists))
    stages = [join(each) for each in zip(*parts, strict=True)]
    return stages if draw.return_stages else stages[-1]


def require_together(image: Any, needing: dict[str, Any], callback: Any) -> None:
    """Raises `ConfigError` if what changes a picture is given without one, or a callback that would not be called."""
    for name, value in needing.items():
        require(
            image is not None or value is None,
            field=name,
            value=value if isinstance(value, str | int | float) else "...",
            rule="needs a picture to begin from",
            remedy="Pass image as well",
        )
    require(
        callback is None or callable(callback),
        field="callback_on_step_end",
        value=callback,
        rule="must be a function",
        remedy="Pass one of (pipe, step, timestep, callback_kwargs)",
    )
    require(
        callback is None or needing["edit"] is None,
        field="callback_on_step_end",
        value=callback,
        rule="is not called while a picture is edited: a stage of that is one program",
        remedy="Leave it out, or leave out edit",
    )
