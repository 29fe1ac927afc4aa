"""What there is to draw when concepts come in styles: each emoji of the catalogue in each style that has it."""

import collections
import dataclasses

import numpy as np

from nami_jax.data.emoji_captions import catalogue
from nami_jax.data.emoji_captions.catalogue import Emoji
from nami_jax.data.emoji_captions.icon_sets import open_icon_set
from nami_jax.data.emoji_captions.raster import draw
from nami_jax.data.emoji_captions.styles import Style, styled_captions
from nami_jax.terminal.progress import progress_bar

_SIDE = 72  # of thumbnails, as Twemoji's
# Mean distance from white, of 255, below which a picture shows nothing. The palest, a small white square, has 3.6.
LEAST_INK = 2.0


@dataclasses.dataclass(frozen=True)
class StyledPicture:
    """A concept in a style."""

    concept: Emoji  # of the catalogue
    style: Style
    drawn: Emoji  # the same concept with this style's art, and the names of all that the style draws so

    @property
    def characters(self) -> tuple[str, ...]:
        """Of the concept, then of others that the style draws identically."""
        return self.concept.character, *self.drawn.same

    @property
    def captions(self) -> tuple[str, ...]:
        """Captions that name concept and style."""
        character = self.concept.character
        return styled_captions(self.drawn.captions, self.style, character, catalogue.is_country(character))


def pictures(concepts: list[Emoji], styles: tuple[Style, ...]) -> list[StyledPicture]:
    """Returns every concept in every style that draws it, for concepts that at least two styles draw.

    Of concepts that a style draws identically, the plainest has the picture, as in the catalogue. What does not show at
    all is left out.
    """
    by_character = {concept.character: concept for concept in concepts}
    found = [
        StyledPicture(by_character[drawn.character], style, drawn)
        for style in styles
        for drawn in catalogue.merge_identical(_drawn_by(style, concepts))
    ]
    count = collections.Counter(picture.concept.character for picture in found)
    order = {concept.character: i for i, concept in enumerate(concepts)}
    kept = [picture for picture in found if count[picture.concept.character] >= 2]
    return sorted(kept, key=lambda picture: order[picture.concept.character])  # stable: styles in their order


def _drawn_by(style: Style, concepts: list[Emoji]) -> list[Emoji]:
    if style.package is None:
        return concepts
    icons = open_icon_set(style)
    drawn = []
    for concept in progress_bar(concepts, desc=f"emoji in {style.name} style"):
        svg = icons.svg(concept.character)
        if svg is not None:
            thumbnail = np.asarray(draw(svg, _SIDE))
            if shows(thumbnail):
                drawn.append(dataclasses.replace(concept, svg=svg, thumbnail=thumbnail))
    return drawn


def shows(thumbnail: np.ndarray) -> bool:
    """Whether anything of a picture (H, W, 4), uint8, can be seen on white."""
    alpha = thumbnail[..., 3:].astype(np.float32) / 255
    return float((alpha * (255 - thumbnail[..., :3].astype(np.float32))).mean()) >= LEAST_INK
