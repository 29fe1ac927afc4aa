"""Prompts as a caller gives them, checked before anything is encoded, and how their pictures are put into batches."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from nami_jax.config import ConfigError, require, shown
from nami_jax.terminal.progress import progress_bar


def check_prompts(prompts: Any, negative_prompt: Any) -> tuple[list[str], list[str]]:
    """Returns the prompts and the negative prompts as lists; of the latter one, or one for each prompt.

    Raises:
        ConfigError: one is no text, empty or not valid Unicode, or the numbers differ.
    """
    texts, negatives = _texts("prompts", prompts), _texts("negative_prompt", negative_prompt)
    if not texts or not all(text.strip() for text in texts):
        raise ConfigError(f"prompts = {shown(texts)}: a prompt is empty. Say what to draw, e.g. 'red apple'.")
    require(
        len(negatives) == len(texts) or isinstance(negative_prompt, str),
        field="negative_prompt",
        value=negatives,
        rule=f"has {len(negatives)} texts for {len(texts)} prompts",
        remedy="Pass one text, or one for each prompt",
    )
    return texts, negatives


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
