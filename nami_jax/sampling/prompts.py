"""What a caller wants drawn, as texts or as their states: checked before anything is encoded, then encoded at once."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from nami_jax.config import ConfigError, ModelConfig, PresetPrompt, require, shown
from nami_jax.terminal.progress import progress_bar
from nami_jax.text.encoders import TextStates


class GivenStates(NamedTuple):
    """States of texts that a caller has encoded: embeds (B, T, D) and pooled (B, P), those of negative prompts too."""

    embeds: Any = None
    pooled: Any = None
    negative_embeds: Any = None
    negative_pooled: Any = None


class Texts(NamedTuple):
    """The states of what is drawn.

    Attributes:
        prompts: of B prompts.
        negatives: of B negative prompts, or of one.
        edited: of the B prompts, or the one, that the pictures to be edited show; None: none are edited.
    """

    prompts: TextStates
    negatives: TextStates
    edited: TextStates | None


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Checked texts, some of which may be given as states."""

    prompts: list[str]  # [] where states are given
    negatives: list[str]
    edited: list[str]
    states: TextStates | None = None
    negative_states: TextStates | None = None

    @property
    def count(self) -> int:
        """How many prompts there are."""
        return len(self.prompts) if self.states is None else len(self.states.pooled)

    def encoded(self, encode: Callable[[Sequence[str], int], tuple[TextStates, TextStates]]) -> Texts:
        """Encodes all texts in one call; `encode` returns the states of the first ones, so many, and of the rest."""
        texts = [*self.prompts, *self.negatives, *self.edited]
        states, rest = (None, None) if not texts else encode(texts, len(self.prompts))
        split = len(self.negatives)
        first, last = (None, None) if rest is None else (rows(rest, np.s_[:split]), rows(rest, np.s_[split:]))
        prompts, negatives = self.states or states, self.negative_states or first
        assert prompts is not None, "they are given as texts or as states"
        assert negatives is not None, "likewise"
        return Texts(prompts, negatives, last if self.edited else None)


def rows(states: TextStates, some: Any) -> TextStates:
    """Returns the states of some texts; the one of one text alone is that of all."""
    return TextStates(states.embeds[some], states.pooled[some])


def read_texts(
    prompts: Any,
    negative_prompt: Any,
    edit: Any,
    given: GivenStates,
    preset: PresetPrompt,
    model: ModelConfig,
) -> Wanted:
    """Checks what is to be drawn.

    Args:
        prompts: one text or several; None where `given` has states.
        negative_prompt: one text or one for each prompt; None: the preset's, or the empty one.
        edit: likewise, what the pictures to be edited show; None: none are edited.
        given: states in place of texts.
        preset: texts that go with the preset.
        model: the network, which takes states of its sizes.

    Raises:
        ConfigError: a prompt is empty or no valid Unicode, numbers differ, or states have other sizes.
    """
    states = _states("prompt_embeds", given.embeds, given.pooled, model)
    negative_states = _states("negative_prompt_embeds", given.negative_embeds, given.negative_pooled, model)
    for name, text, state in (
        ("prompts", prompts, states),
        ("negative_prompt", negative_prompt, negative_states),
        ("prompt_embeds", states, None if prompts is None else True),
    ):
        require(
            text is None or state is None,
            field=name,
            value=text if isinstance(text, str | list) else "...",
            rule="the states of these texts are given too",
            remedy="Leave one of the two out",
        )
    texts = [] if states is not None else check_prompts(prompts)
    count = len(texts) if states is None else len(states.pooled)
    added = preset if states is None else PresetPrompt()
    if added.suffix:
        logging.info("the preset adds %r to each prompt", added.suffix)
    negative = added.negative if negative_prompt is None else negative_prompt
    negatives = [] if negative_states is not None else for_each_prompt("negative_prompt", negative, count)
    if negative_states is not None:
        _require_count("negative_prompt_embeds", len(negative_states.pooled), count)
    edited = [] if edit is None else for_each_prompt("edit", edit, count)
    return Wanted(
        [text + added.suffix for text in texts],
        negatives,
        [text + added.suffix for text in edited],
        states,
        negative_states,
    )


def check_prompts(prompts: Any) -> list[str]:
    """Returns the prompts as a list; raises `ConfigError` if one is no text, empty or not valid Unicode."""
    texts = _texts("prompts", prompts)
    if not texts or not all(text.strip() for text in texts):
        raise ConfigError(f"prompts = {shown(texts)}: a prompt is empty. Say what to draw, e.g. 'red apple'.")
    return texts


def for_each_prompt(field: str, given: Any, count: int) -> list[str]:
    """Returns texts as a list, one of them or one for each prompt.

    Raises:
        ConfigError: one is no text or not valid Unicode, or there are as many as neither.
    """
    texts = _texts(field, given)
    if not isinstance(given, str):
        require(
            len(texts) == count,
            field=field,
            value=texts,
            rule=f"has {len(texts)} texts for {count} prompts",
            remedy="Pass one text, or one for each prompt",
        )
    return texts


def _texts(field: str, given: Any) -> list[str]:
    texts = [given] if isinstance(given, str) else list(given) if isinstance(given, Iterable) else given
    require(
        isinstance(texts, list) and all(isinstance(text, str) for text in texts),
        field=field,
        value=given,
        rule="must be a text or a list of texts",
        remedy="Pass e.g. 'red apple'",
    )
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:  # a lone surrogate: no tokeniser takes it
            raise ConfigError(
                f"{field} = {shown(text)}: is not valid Unicode at letter {error.start}. Remove or correct it."
            ) from error
    return texts


def _states(field: str, embeds: Any, pooled: Any, model: ModelConfig) -> TextStates | None:
    """Returns given states in float32, None if there are none; raises `ConfigError` if they do not fit the network."""
    if embeds is None and pooled is None:
        return None
    require(
        embeds is not None and pooled is not None,
        field=field,
        value=None if embeds is None else np.shape(embeds),
        rule=f"token states and pooled vectors belong together, and {'pooled_' * (pooled is None)}{field} is missing",
        remedy="Pass both, as pipe.encode returns them",
    )
    states = TextStates(np.asarray(embeds, np.float32), np.asarray(pooled, np.float32))
    shapes = states.embeds.shape, states.pooled.shape
    require(
        [len(shape) for shape in shapes] == [3, 2]
        and shapes[0][0] == shapes[1][0] > 0
        and (shapes[0][2], shapes[1][1]) == (model.text_dim, model.pooled_dim),
        field=field,
        value=shapes,
        rule=f"must be token states (B, T, {model.text_dim}) and pooled vectors (B, {model.pooled_dim})",
        remedy="Pass what pipe.encode returns",
    )
    return states


def _require_count(field: str, found: int, count: int) -> None:
    require(
        found in (1, count),
        field=field,
        value=found,
        rule=f"has the states of {found} texts for {count} prompts",
        remedy="Pass those of one text, or of one for each prompt",
    )


def picture_batches(count: int, size: int, progress: bool) -> Iterator[tuple[np.ndarray, int]]:
    """Yields which of `count` pictures are drawn at once, with a bar if there are several such batches.

    A batch is filled up with its own first pictures to a power of two, at most `size`, and the last one to as many as
    those before it: a new number of pictures needs no new program.

    Yields:
        The pictures' indices, and how many of them, from the first, are wanted.
    """
    at_once = min(size, 1 << (count - 1).bit_length())
    starts = range(0, count, at_once)
    for start in progress_bar(starts, desc="batches", disable=not progress or len(starts) == 1):
        wanted = np.arange(start, min(start + at_once, count))
        yield np.resize(wanted, at_once), len(wanted)
