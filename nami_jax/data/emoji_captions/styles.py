"""The styles in which a concept is drawn: whose art it is, and the captions that name concept and style."""

import dataclasses
import hashlib

from nami_jax.data.emoji_captions import captions

# {thing} is the concept's name with its article, {name} that or another of its names without one.
_FIRST = "{thing}, {style} style"
_OTHERS = (
    "{name}, {style} style",
    "{name}, {style}",
    "{thing} in {style} style",
    "{style} {name}",
    "{style} style, {name}",
    "{style} emoji of {thing}",
    "{style} picture of {thing}",
    "{style} drawing of {thing}",
    "the {style} emoji for {name}",
)
CAPTIONS = 4  # of a picture
WORDS = 9  # at most, of the captions of any concept that has enough of them


@dataclasses.dataclass(frozen=True)
class Style:
    """A set of emoji by one artist."""

    name: str  # what captions, and whoever writes a prompt, call it; no style's name is in another's
    art: str  # who made it, under which licence
    licence: str  # short
    homepage: str
    citation: str  # BibTeX
    package: str | None = None  # below @iconify-json; None: Twemoji's, which is a Python package
    version: str = ""  # of the package
    characters: str | None = None  # the package whose list says which icon shows which character, if not this one


TWEMOJI = Style(
    name="twemoji",
    art="Twemoji, copyright Twitter, Inc. and other contributors, maintained by jdecked and contributors, licensed "
    "under CC-BY 4.0 (https://creativecommons.org/licenses/by/4.0/)",
    licence="CC-BY 4.0 (Twemoji, Twitter, Inc. and other contributors)",
    homepage="https://github.com/jdecked/twemoji",
    citation="""@misc{twemoji,
  title = {Twemoji}, author = {{Twitter, Inc. and other contributors}}, url = {https://github.com/jdecked/twemoji},
  note = {Graphics licensed under CC-BY 4.0}
}""",
)
NOTO = Style(
    name="noto",
    art="Noto Emoji, copyright Google Inc., licensed under the Apache License 2.0 "
    "(https://www.apache.org/licenses/LICENSE-2.0)",
    licence="Apache-2.0 (Noto Emoji, Google Inc.)",
    homepage="https://github.com/googlefonts/noto-emoji",
    citation="""@misc{noto,
  title = {Noto Emoji}, author = {{Google Inc.}}, url = {https://github.com/googlefonts/noto-emoji},
  note = {Graphics licensed under the Apache License 2.0}
}""",
    package="noto",
    version="1.2.9",
)
FLUENT = Style(
    name="glossy fluent",
    art="Fluent Emoji, copyright Microsoft Corporation, licensed under the MIT License "
    "(https://github.com/microsoft/fluentui-emoji/blob/main/LICENSE)",
    licence="MIT (Fluent Emoji, Microsoft Corporation)",
    homepage="https://github.com/microsoft/fluentui-emoji",
    citation="""@misc{fluent,
  title = {Fluent Emoji}, author = {{Microsoft Corporation}}, url = {https://github.com/microsoft/fluentui-emoji},
  note = {Graphics licensed under the MIT License}
}""",
    package="fluent-emoji",
    version="1.2.7",
    characters="fluent-emoji-flat",  # its own list is empty; both have the same icons
)
FLUENT_FLAT = dataclasses.replace(
    FLUENT,
    name="flat fluent",
    art=FLUENT.art.replace("Fluent Emoji", "Fluent Emoji Flat"),
    licence="MIT (Fluent Emoji Flat, Microsoft Corporation)",
    package="fluent-emoji-flat",
    version="1.2.6",
    characters=None,
)
# Share-alike, so in data sets of its own only.
OPENMOJI = Style(
    name="openmoji",
    art="OpenMoji, the open-source emoji and icon project, copyright its contributors, licensed under CC-BY-SA 4.0 "
    "(https://creativecommons.org/licenses/by-sa/4.0/)",
    licence="CC-BY-SA 4.0 (OpenMoji contributors)",
    homepage="https://openmoji.org",
    citation="""@misc{openmoji,
  title = {OpenMoji}, author = {{OpenMoji contributors}}, url = {https://openmoji.org},
  note = {Graphics licensed under CC-BY-SA 4.0}
}""",
    package="openmoji",
    version="1.2.29",
)
STYLES = (TWEMOJI, NOTO, FLUENT, FLUENT_FLAT)


def styled_captions(names: tuple[str, ...], style: Style, key: str, country: bool = False) -> tuple[str, ...]:
    """Returns captions that name a concept and a style in varied words.

    Args:
        names: of the concept, the readable one first.
        style: the picture's.
        key: of the concept; it and the style choose the words, so that a picture keeps its captions when others come.
        country: the concept is a country's flag, which takes no article.

    Returns:
        `CAPTIONS` different ones, of at most `WORDS` words where the names allow it; the first is like "a red apple,
        noto style" for every concept.
    """
    thing = (None if country else captions.articled(names[0])) or names[0]
    bare = [name for name in names if name != captions.articled(names[0])]
    first, *others = captions.unique(
        [pattern.format(thing=thing, name=name, style=style.name) for pattern in (_FIRST, *_OTHERS) for name in bare]
    )
    return (first, *sorted(others, key=lambda text: _rank(text, key, style.name))[: CAPTIONS - 1])


def _rank(text: str, *seeds: str) -> tuple[bool, bytes]:
    """Puts short captions first, each half in an order that the seeds shuffle."""
    return len(text.split()) > WORDS, hashlib.sha256("\n".join((*seeds, text)).encode()).digest()
