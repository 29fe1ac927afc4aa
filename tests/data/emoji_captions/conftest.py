"""Icon sets in the form of npm's @iconify-json packages, drawn here: coloured rectangles, of 100 emoji of food."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from nami_jax.data.emoji_captions import catalogue, icon_sets, near_duplicates, styled_pictures
from nami_jax.data.emoji_captions.styles import FLUENT, FLUENT_FLAT, NOTO, OPENMOJI, STYLES

# Noto draws the bagel as the baguette, and the beans nearly as the bento; of the apple nothing shows; a lollipop, which
# is held out by itself, nearly as it draws honey, which is not.
SAME, NEARLY, LIKE_TRAINED = ("bagel", "baguette bread"), ("beans", "bento box"), ("lollipop", "honey pot")
INVISIBLE = "green apple"


def rectangles(*seed: str, tint: int = 0) -> str:
    """Draws eight rectangles at random on 32 x 32; `tint` makes them a little darker."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(" ".join(seed).encode()).digest()[:8]))
    drawn = []
    lowest, highest = (0, 0, 6, 6, 20, 20, 20), (22, 22, 16, 16, 255, 255, 255)
    for left, top, width, height, *colour in rng.integers(lowest, highest, (8, 7)):
        red, green, blue = (int(value) - tint for value in colour)
        drawn.append(f'<path fill="rgb({red},{green},{blue})" d="M{left} {top}h{width}v{height}h-{width}z"/>')
    return "".join(drawn)


@pytest.fixture(scope="session")
def entries() -> list[catalogue.Emoji]:
    return catalogue.catalogue()


@pytest.fixture(scope="session")
def groups(entries: list[catalogue.Emoji]) -> dict[str, str]:
    return near_duplicates.group_names(entries)


@pytest.fixture(scope="session")
def by_name(entries: list[catalogue.Emoji]) -> dict[str, catalogue.Emoji]:
    return {entry.name: entry for entry in entries}


@pytest.fixture(scope="session")
def food(entries: list[catalogue.Emoji]) -> list[catalogue.Emoji]:
    return [entry for entry in entries if entry.category == "Food & Drink"][:100]


@pytest.fixture(scope="session")
def hand_made(tmp_path_factory: pytest.TempPathFactory, food: list[catalogue.Emoji]) -> Path:
    """A folder as `make styles` makes it: Noto draws things of its own, Fluent and Fluent flat nearly the same."""
    folder = tmp_path_factory.mktemp("styles")
    noto = {entry.name: rectangles("noto", entry.name) for entry in food}
    noto |= {SAME[0]: noto[SAME[1]], INVISIBLE: "<g/>"}
    noto |= {name: rectangles("noto", like, tint=6) for name, like in (NEARLY, LIKE_TRAINED)}
    write_package(folder, NOTO.package, NOTO.version, food, noto)
    for style, tint in ((FLUENT, 0), (FLUENT_FLAT, 6)):
        drawn = {entry.name: rectangles("fluent", entry.name, tint=tint) for entry in food}
        write_package(folder, style.package, style.version, food, drawn)
    (folder / "node_modules" / "@iconify-json" / "fluent-emoji" / "chars.json").write_text("{}")
    write_package(folder, OPENMOJI.package, OPENMOJI.version, food, {e.name: rectangles("open", e.name) for e in food})
    return folder


def write_package(
    folder: Path, name: str | None, version: str, food: list[catalogue.Emoji], bodies: dict[str, str]
) -> None:
    package = folder / "node_modules" / "@iconify-json" / str(name)
    package.mkdir(parents=True)
    icons = {
        "prefix": name, "width": 32, "height": 32, "icons": {icon: {"body": body} for icon, body in bodies.items()},
        "aliases": {"mirrored": {"parent": "banana", "hFlip": True}, "again": {"parent": "mirrored", "hFlip": True}},
    }  # fmt: skip
    codes = {"-".join(f"{ord(c):04x}" for c in e.character): e.name for e in food}
    for file, content in (
        ("icons", icons),
        ("chars", codes | {"1f1e6": "mirrored", "1f1e7": "again"}),
        ("package", {"version": version}),
    ):
        (package / f"{file}.json").write_text(json.dumps(content))


@pytest.fixture
def installed(hand_made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hand-made icon sets, as the installed ones."""
    monkeypatch.setenv(icon_sets.FOLDER_VARIABLE, str(hand_made))
    return hand_made


@pytest.fixture(scope="session")
def pictures(hand_made: Path, food: list[catalogue.Emoji]) -> list[styled_pictures.StyledPicture]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(icon_sets.FOLDER_VARIABLE, str(hand_made))
        return styled_pictures.pictures(food, STYLES)
