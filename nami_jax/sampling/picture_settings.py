"""What a drawn PNG says of how it was drawn: written with it, and read from it again."""

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nami_jax.config import ConfigError, PresetPrompt, SampleConfig, preset_prompt
from nami_jax.data.images import BrokenImageError, png_texts
from nami_jax.sampling.pipeline import NamiPipeline

TEXTS = ("prompt", "negative_prompt", "prompt_suffix", "checkpoint")  # what looks like a number in these is none
MOST_LETTERS = 500  # of what is read as a value
NOT_VALUES = (ValueError, SyntaxError, MemoryError, RecursionError)  # what Python's parser raises for other texts


def about_pictures(pipe: NamiPipeline, settings: SampleConfig, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what is stored with each picture of a call, beside its prompt.

    Args:
        pipe: what draws.
        settings: of the sampler.
        asked: the call's other arguments, among them `preset` and `preset_prompt`.
    """
    texts = preset_prompt(asked["preset"]) if asked["preset_prompt"] else PresetPrompt()
    more = {"prompt_suffix": texts.suffix, "checkpoint": pipe.source, "loras": pipe.loras}
    return {**settings.to_dict(), **asked, **more}


def read_settings(path: Path) -> dict[str, Any]:
    """Reads what `about_pictures` and a prompt were stored as.

    Returns:
        Numbers, tuples, None and truth values as these, all else as text. They are anyone's: nothing is checked.

    Raises:
        ConfigError: it is no PNG that can be read, or one without a prompt.
    """
    try:
        texts = png_texts(path.read_bytes())
    except BrokenImageError as error:
        raise ConfigError(f"picture: {error}. Choose a PNG that was drawn here or by nami_jax.sample.") from error
    if "prompt" not in texts:
        raise ConfigError(
            "picture: says nothing of how it was drawn; programs that edit or send pictures remove such notes. "
            "Choose a PNG as it was drawn here or by nami_jax.sample."
        )
    return {name: text if name in TEXTS else _value(text) for name, text in texts.items()}


def _value(text: str) -> Any:
    if len(text) > MOST_LETTERS:
        return text
    try:
        return ast.literal_eval(text)
    except NOT_VALUES:
        return text
