"""What a visitor has filled in: checked by the demo's limits, turned into a call's arguments, and filled in again."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from PIL import Image

from nami_jax.config import SAMPLE_PRESETS, ConfigError, ModelConfig, SampleConfig, require
from nami_jax.data.images import BrokenImageError, cover, opacity, open_image

GIVEN = "a picture that is not stored here"  # what a PNG says of the picture that drawing began from
MOST_BYTES = 20 * 2**20  # of a file that is sent
MOST_PIXELS = 40_000_000  # of a picture that is sent
CANVAS = 512  # least side of what is painted on, pixels


class VisitLimits(NamedTuple):
    """What a visitor may ask for at most.

    Attributes:
        images: pictures at once.
        side: height and width, pixels.
        steps: of each stage.
        letters: of a prompt.
    """

    images: int
    side: int
    steps: int
    letters: int


class Form(NamedTuple):
    """The fields of the form, as they arrive: of any type, for a request need not come from the page.

    Attributes:
        prompt: what to draw.
        negative_prompt: what guidance steers away from; empty: the preset's.
        preset: the name of one, or "" for the model's own settings.
        seed: of the noise.
        num_images: pictures.
        height: pixels.
        width: pixels.
        picture: a file to begin from, or None.
        strength: the global time from which it is redrawn.
        painted: files of the layers over the picture, of which there may be one, or None.
        steps: of each stage.
        guidance_scale: of each stage.
    """

    prompt: Any
    negative_prompt: Any
    preset: Any
    seed: Any
    num_images: Any
    height: Any
    width: Any
    picture: Any
    strength: Any
    painted: Any
    steps: Sequence[Any]
    guidance_scale: Sequence[Any]

    @classmethod
    def of(cls, values: Sequence[Any]) -> Self:
        """Takes the fields one after the other, those of each stage last: all steps, then all scales."""
        single = len(cls._fields) - 2
        stages = (len(values) - single) // 2
        return cls._make([*values[:single], values[single : single + stages], values[single + stages :]])

    def with_files(self) -> Self:
        """Returns the form with files where Gradio tells of pictures: sent by a visitor, and read by nobody yet."""
        layers = (self.painted or {}).get("layers") or ()
        return self._replace(picture=sent_file(self.picture), painted=[sent_file(layer) for layer in layers])

    def arguments(self, limits: VisitLimits) -> dict[str, Any]:
        """Returns the arguments of the pipeline's call, without the steps and the guidance.

        Raises:
            ConfigError: more is asked for than the limits allow, or a picture cannot be read. All else is the
                pipeline's to check.
        """
        for name, text in (("prompt", self.prompt), ("negative_prompt", self.negative_prompt)):
            _at_most(name, len(str(text)), limits.letters, "letters")
        _at_most("num_images", self.num_images, limits.images, "pictures")
        _at_most("height", self.height, limits.side, "pixels")
        _at_most("width", self.width, limits.side, "pixels")
        for number, steps in enumerate(self.steps, 1):
            _at_most(f"steps of stage {number}", steps, limits.steps, "steps")
        image = None if self.picture is None else read_picture(Path(self.picture))
        return {
            "preset": self.preset or None,
            "preset_prompt": True,
            "negative_prompt": self.negative_prompt or None,
            "seed": self.seed,
            "num_images": self.num_images,
            "height": self.height,
            "width": self.width,
            "image": image,
            "strength": None if image is None else self.strength,
            "mask": None if image is None else painted_mask(self.painted or ()),
        }


def _at_most(field: str, value: Any, most: int, what: str) -> None:
    require(
        not isinstance(value, int | float) or value <= most,
        field=field,
        value=value,
        rule=f"this demo allows {most} {what} at most",
        remedy="Set less",
    )


def sent_file(told: Any) -> str | None:
    """Returns the file in what Gradio tells of a picture that a visitor has sent."""
    return None if told is None else told["path"]


def read_picture(path: Path) -> Image.Image:
    """Reads a picture that a visitor has sent; raises `ConfigError` if it is none, or too large."""
    with _reading("picture", "Choose a PNG, JPEG or WebP that can be read"):
        return open_image(path.read_bytes(), MOST_PIXELS)


@contextlib.contextmanager
def _reading(field: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except (OSError, BrokenImageError) as error:
        reason = error if isinstance(error, BrokenImageError) else error.strerror
        raise ConfigError(f"{field}: {reason}. {remedy}.") from error


def canvas(picture: Image.Image, height: Any, width: Any, limits: VisitLimits) -> Image.Image:
    """Returns a picture cut as it will be redrawn, enlarged by a whole factor until one can paint on it.

    Raises:
        ConfigError: height or width is no number of pixels that the limits allow.
    """
    for name, side in (("height", height), ("width", width)):
        require(
            isinstance(side, int) and 1 <= side <= limits.side,
            field=name,
            value=side,
            rule=f"must be 1 to {limits.side} pixels",
            remedy="Set such a number",
        )
    cut = cover(picture, height, width)
    scale = -(-CANVAS // max(height, width))
    return cut.resize((width * scale, height * scale), Image.Resampling.NEAREST)


def painted_mask(layers: Sequence[str]) -> Image.Image | None:
    """Returns white where anything is painted on the editor's layer, black elsewhere; None if nothing is.

    Args:
        layers: files, none or one: the page's editor has no others.

    Raises:
        ConfigError: there are several, or the one is no PNG or too large.
    """
    require(
        len(layers) <= 1,
        field="painted",
        value=f"{len(layers)} layers",
        rule="this demo takes one",
        remedy="Paint on the picture alone",
    )
    if not layers:
        return None
    with _reading("painted", "Choose the picture again and paint anew"):
        painted = opacity(Path(layers[0]).read_bytes(), MOST_PIXELS) > 0
    return Image.fromarray(painted.astype(np.uint8) * 255) if painted.any() else None


def filled_in(about: Mapping[str, Any], model: ModelConfig) -> dict[str, Any]:
    """Returns the fields of `Form` that a picture's settings fill in; those that it does not tell are left out.

    Args:
        about: what `read_settings` returns: anyone's values.
        model: the network, which has so many stages.

    Raises:
        ConfigError: it was drawn by a model of another number of stages, or a value is none that could be meant.
    """
    found = SampleConfig.pick({name: about[name] for name in ("steps", "guidance_scale") if name in about})
    require(
        "steps" not in about or len(found.steps) == model.num_stages,
        field="steps",
        value=about.get("steps"),
        rule=f"were drawn by a model of {len(found.steps)} stages; this one has {model.num_stages}",
        remedy="Start the demo with that model",
    )
    numbers = {name: about.get(name) for name in ("seed", "num_images", "height", "width", "strength")}
    filled = {name: value for name, value in numbers.items() if type(value) in (int, float)}
    filled |= {name: str(about[name]) for name in ("prompt", "negative_prompt") if name in about}
    filled["preset"] = about.get("preset") if about.get("preset") in list(SAMPLE_PRESETS) else ""
    if "steps" in about:
        filled["steps"] = found.steps
        filled["guidance_scale"] = found.stage_scales
    return filled


def left_out(about: Mapping[str, Any], settings: SampleConfig, source: str) -> list[str]:
    """Returns what a picture was drawn with that the form cannot repeat, in words.

    Args:
        about: what `read_settings` returns.
        settings: what the filled-in form draws with.
        source: where the demo's model comes from.
    """
    drawn = settings.to_dict()
    notes = [f"{name} = {about[name]}, not {ours}" for name, ours in drawn.items() if about.get(name, ours) != ours]
    if about.get("checkpoint", source) != source:
        notes.append(f"drawn by {about['checkpoint']}")
    if about.get("loras"):
        notes.append(f"with adapters {about['loras']}")
    if about.get("image") is not None:
        notes.append("begun from a picture, which is not stored: choose it again")
    if about.get("edit") is not None:
        notes.append(f"edited from {about['edit']!r}")
    return notes
