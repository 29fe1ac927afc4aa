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
Stages = Iterator[tuple[int, np.ndarray]]  # stage numbers, from 1 on, and the clean latents that they end in
Batch = tuple[np.ndarray, Stages]  # of which prompt each picture is (B,), and the latents of its stages
OnStage = Callable[[int, Any], Any]  # the number of a stage, from 1 on, and what it ended in, as a call returns it


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

    def batches(self, texts: Texts, source: Source | None, draw: DrawConfig, every: bool) -> Iterator[Batch]:
        """Draws all pictures of a call.

        Args:
            texts: states of P prompts.
            source: P known pictures, or one; None: there are none.
            draw: what is asked for.
            every: whether earlier stages are wanted as well.

        Yields:
            (B,) of which prompt each picture is, and, as they are drawn, the clean latents (B, h_k, w_k, C) of every
            stage that is run, coarsest first; of the last one alone unless `every`.
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
            stages = self._stages(chosen, request, every)
            yield which[:count], ((number, latents[:count]) for number, latents in stages)

    def _stages(self, texts: Texts, request: Request, every: bool) -> Stages:
        arguments = self.networks, texts.prompts, texts.negatives, self.settings, request
        last = len(self.sampler.stages)
        if texts.edited is not None:
            for stage, latents in edited_stages(
                self.sampler, self.networks, texts, self.settings, request, self.watching
            ):
                if every or stage.number == last:
                    yield stage.number, latents
        elif not every:
            yield last, self.sampler(*arguments, self.watching)
        else:
            share = self.networks.transition.share
            for stage, end in self.sampler.stage_ends(*arguments, self.watching):
                clean = estimate_clean((stage, share, self.sampler.layout), end)
                yield stage.number, self.sampler.fetched(clean, len(request.numbers))


def _of(states: TextStates, which: np.ndarray) -> TextStates:
    return states if len(states.pooled) == 1 else rows(states, which)


def finish(
    batches: Iterable[Batch], sources: SourcePictures | None, decode: Decode, draw: DrawConfig, told: OnStage | None
) -> Any:
    """Turns latents into what a call returns, batch by batch: see `NamiPipeline.__call__`."""

    def finished(number: int, latents: np.ndarray, which: np.ndarray) -> Any:
        pictures = in_form(latents, which)
        if told is not None:
            told(number, pictures)
        return pictures

    def in_form(latents: np.ndarray, which: np.ndarray) -> Any:
        if draw.output_type == "latent":
            return latents
        pixels = decode(latents)
        if sources is not None and pixels.shape[1:] == sources.levels.shape[1:]:
            pixels = sources.keep(pixels, which)
        return to_images(pixels) if draw.output_type == "pil" else np.clip((pixels + np.float32(1)) / 2, 0, 1)

    parts = [[finished(*stage, which) for stage in stages] for which, stages in batches]
    join = np.concatenate if draw.output_type != "pil" else lambda lists: list(itertools.chain.from_iterable(lists))
    stages = [join(each) for each in zip(*parts, strict=True)]
    return stages if draw.return_stages else stages[-1]


def require_together(image: Any, needing: dict[str, Any], on_step: Any, on_stage: Any) -> None:
    """Raises `ConfigError` if what changes a picture is given without one, or a callback that would not be called."""
    for name, value in needing.items():
        require(
            image is not None or value is None,
            field=name,
            value=value if isinstance(value, str | int | float) else "...",
            rule="needs a picture to begin from",
            remedy="Pass image as well",
        )
    for name, callback, arguments in (
        ("callback_on_step_end", on_step, "(pipe, step, timestep, callback_kwargs)"),
        ("callback_on_stage_end", on_stage, "(pipe, stage, pictures)"),
    ):
        require(
            callback is None or callable(callback),
            field=name,
            value=callback,
            rule="must be a function",
            remedy=f"Pass one of {arguments}",
        )
    require(
        on_step is None or needing["edit"] is None,
        field="callback_on_step_end",
        value=on_step,
        rule="is not called while a picture is edited: a stage of that is one program",
        remedy="Leave it out, or leave out edit",
    )
