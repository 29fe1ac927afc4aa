"""Prompt sets: the thousand of NAMI-1K, or a reader's own file of the same form.

A set is JSON Lines in UTF-8, one prompt a line. Its digest names it wherever pictures or votes refer to it.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pydantic

from nami_jax.config import ConfigError, Settings, require, shown
from nami_jax.config.settings import settings
from nami_jax.files.json_files import parse_json, read_bytes

PACKAGED = Path(__file__).with_name("prompts.jsonl")
# Names a file on every system: `ID.png` is that prompt's picture.
SAFE_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
AGAIN = "Correct that line"

Text = Annotated[str, pydantic.Field(min_length=1)]
Kind = Literal["short", "typed", "long"]
Tag = Literal["count", "colour", "space", "text", "people", "action", "emotion", "negation", "rare"]
Language = Literal["en", "zh"]


@settings(remedy=AGAIN)
class Prompt(Settings):
    """One prompt in English and Chinese.

    Attributes:
        id: names its pictures, `ID.png`.
        kind: "short" (at most 12 English words), "typed" (as people type into a box) or "long" (60 to 120 words).
        topic: what it is about, e.g. "food and drink".
        style: how it is to be drawn, or "unspecified".
        en: the English text.
        zh: the same in Chinese; None in a set of others that has no Chinese. Those of NAMI-1K all have it.
        tags: what it asks for that a rater can see -> language -> the words that ask for it, as they stand in the text.
    """

    id: Text
    kind: Kind
    topic: Text
    style: Text
    en: Text
    zh: Text | None = None
    tags: dict[Tag, dict[Language, list[str]]] = pydantic.Field(default_factory=dict)

    def __post_init__(self):
        require(
            SAFE_ID.fullmatch(self.id) is not None,
            field="id",
            value=self.id,
            rule="must be 1 to 64 of a-z, 0-9, _ and -, and begin with a letter or digit, as it names a file",
            remedy=AGAIN,
        )
        for language, text in self.texts().items():
            require(bool(plain(text)), field=language, value=text, rule="has neither letter nor digit", remedy=AGAIN)
            for tag, words in self.tags.items():
                given = words.get(language, [])
                require(
                    bool(given) and all(part and part in text for part in given),
                    field=f"tags.{tag}.{language}",
                    value=given,
                    rule=f"must be words that stand in the text {shown(text)}",
                    remedy=AGAIN,
                )

    def texts(self) -> dict[Language, str]:
        """Returns the texts by language."""
        return {"en": self.en} if self.zh is None else {"en": self.en, "zh": self.zh}


@dataclass(frozen=True)
class PromptSet:
    """Prompts in the order of their file.

    Attributes:
        prompts: at least one, without twins.
        digest: SHA-256 of the file, hexadecimal.
    """

    prompts: tuple[Prompt, ...]
    digest: str

    @property
    def version(self) -> str:
        """The beginning of the digest, as messages and file names show it."""
        return self.digest[:12]


def plain(text: str) -> str:
    """Returns a text without what a copy changes: letter case, widths, punctuation, symbols and spacing."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("'", "").replace("’", "")
    kept = (letter if unicodedata.category(letter)[0] in "LNM" else " " for letter in text)
    return " ".join("".join(kept).split())


def read_prompts(path: Path | None = None) -> PromptSet:
    """Reads a prompt set.

    Args:
        path: of the file; None: the thousand prompts of NAMI-1K.

    Raises:
        ConfigError: the file is missing or damaged, a line has unknown, missing or wrong fields, or two prompts are
            twins: one id, or one text but for case, punctuation and spacing.
    """
    path = path or PACKAGED
    content = read_bytes(path, "Name a file of prompts")
    prompts = tuple(_prompts(content, path))
    require(
        bool(prompts), field="prompts", value=str(path), rule="holds no prompt", remedy="Name a file with one a line"
    )
    return PromptSet(prompts, hashlib.sha256(content).hexdigest())


def _prompts(content: bytes, path: Path) -> Iterator[Prompt]:
    seen: dict[tuple[str, str], int] = {}
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        place = f"{path} line {number}"
        fields = parse_json(line, place, AGAIN)
        try:
            prompt = Prompt.from_dict(fields)
        except ConfigError as error:
            raise ConfigError(f"{place}: {error}") from error
        for field, text in {"id": prompt.id, **prompt.texts()}.items():
            twin = seen.setdefault((field, plain(text) if field != "id" else text), number)
            require(
                twin == number,
                field=field,
                value=text,
                rule=f"{place} is a twin of line {twin}",
                remedy="Remove one of the two",
            )
        yield prompt
