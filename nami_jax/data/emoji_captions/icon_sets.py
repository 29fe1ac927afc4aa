"""Reads emoji that are drawn in icon sets of npm's @iconify-json packages, which `make styles` installs."""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

from nami_jax.config import ConfigError
from nami_jax.data.emoji_captions.styles import Style

FOLDER_VARIABLE = "NAMI_STYLES"
_VARIATION = 0xFE0F


@dataclasses.dataclass(frozen=True)
class IconSet:
    """The icons of one package, by the characters that they show."""

    icons: dict[str, Any]  # `icons.json` of the package
    names: dict[tuple[int, ...], str]  # code points without variation selectors to an icon's name

    def svg(self, character: str) -> str | None:
        """Returns the SVG that shows a character, with or without its variation selectors; None if there is none."""
        name = self.names.get(_code_points(character))
        return None if name is None else _svg(self.icons, name)


def icon_folder() -> Path:
    """Returns the folder that has the packages in `node_modules`: $NAMI_STYLES, or `styles` in this environment."""
    return Path(os.environ.get(FOLDER_VARIABLE) or Path(sys.prefix) / "styles")


def open_icon_set(style: Style) -> IconSet:
    """Reads a style's package.

    Raises:
        ConfigError: it is not installed, or in another version, whose pictures might be others.
    """
    assert style.package is not None
    package = _package(style, style.package)
    listed = package if style.characters is None else _package(style, style.characters)
    icons, characters = _json(package / "icons.json"), _json(listed / "chars.json")
    found = _json(package / "package.json")["version"]
    if found != style.version:
        raise ConfigError(
            f"data.name: its emoji in {style.name} style, {package}, are of version {found}, not {style.version}, and "
            "a data set must not change with the installation. Run `make styles`."
        )
    known = icons["icons"].keys() | icons.get("aliases", {}).keys()
    names = {tuple(int(c, 16) for c in codes.split("-")): name for codes, name in characters.items() if name in known}
    return IconSet(icons, {tuple(c for c in codes if c != _VARIATION): name for codes, name in names.items()})


def _package(style: Style, name: str) -> Path:
    folder = icon_folder() / "node_modules" / "@iconify-json" / name
    if not (folder / "icons.json").is_file():
        raise ConfigError(
            f"data.name: its emoji in {style.name} style are not installed: no {folder}/icons.json. Run `make styles`, "
            f"or set the environment variable {FOLDER_VARIABLE} to a folder where `npm ci` was run with this project's "
            "package-lock.json."
        )
    return folder


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def _code_points(character: str) -> tuple[int, ...]:
    return tuple(ord(c) for c in character if ord(c) != _VARIATION)


def _svg(icons: dict[str, Any], name: str) -> str:
    """Writes an icon, or an icon's mirrored alias, as a whole SVG."""
    flip = False
    while name not in icons["icons"]:
        alias = icons["aliases"][name]
        name, flip = alias["parent"], flip != alias.get("hFlip", False)
    icon = icons["icons"][name]
    left, top, width, height = (
        icon.get(side, icons.get(side, default))
        for side, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    body = icon["body"]
    if flip:
        body = f'<g transform="translate({2 * left + width} 0) scale(-1 1)">{body}</g>'
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {namespaces} viewBox="{left} {top} {width} {height}">{body}</svg>'
