"""A small arena: prompts, pictures of models, and its server as a process of its own."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from nami_jax.nami1k.arena_app import Arena
from nami_jax.nami1k.picture_folders import read_folders
from nami_jax.nami1k.prompt_set import read_prompts
from nami_jax.nami1k.questions import AXES, Answer, Axis
from nami_jax.nami1k.votes_file import open_votes
from tests.support.servers import Server

ANSWERS: dict[Axis, Answer] = dict.fromkeys(AXES, "left")


def write_prompts(path: Path, count: int) -> Path:
    kinds = ("short", "typed", "long")
    tags = {"count": {"en": ["picture"], "zh": ["图"]}}
    lines = [
        {
            "id": f"p{i:03}", "kind": kinds[i % 3], "topic": "tests", "style": "plain", "en": f"picture number {i}",
            "zh": f"第{i}张图", "tags": tags if i % 2 else {},
        }
        for i in range(count)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return path


def write_pictures(folder: Path, prompts: Path, side: int = 16) -> Path:
    """Draws a picture of one colour for each prompt; its metadata name the folder, as programs' notes do."""
    folder.mkdir()
    note = PngInfo()
    note.add_text("Software", f"model {folder.name}")
    for i, line in enumerate(prompts.read_text().splitlines()):
        colour = np.random.default_rng([i, *folder.name.encode()]).integers(0, 256, 3)
        picture = np.broadcast_to(colour.astype(np.uint8), (side, side, 3))
        Image.fromarray(np.ascontiguousarray(picture)).save(folder / f"{json.loads(line)['id']}.png", pnginfo=note)
    return folder


class Files(Server):
    """Prompts and the pictures of models A, B, ... in a folder; a server of them is started and stopped by hand."""

    def __init__(self, folder: Path, prompts: int = 12, models: int = 2):
        super().__init__(folder / "log.txt")
        self.prompts = write_prompts(folder / "prompts.jsonl", prompts)
        self.images = [write_pictures(folder / name, self.prompts, 16 + i) for i, name in enumerate("ABCD"[:models])]
        self.votes = folder / "votes.db"

    def arena(self, votes_each: int = 200) -> Arena:
        prompts = read_prompts(self.prompts)
        folders = read_folders([str(path) for path in self.images], [prompt.id for prompt in prompts.prompts])
        models = {folder.name: folder.digest for folder in folders}
        return Arena(open_votes(self.votes, prompts.digest, models), prompts, folders, votes_each)

    def command(self, *flags: Any) -> list[str]:
        given = [f"--images={path}" for path in self.images]
        own = [f"--prompts={self.prompts}", f"--votes={self.votes}"]
        return [sys.executable, "-m", "nami_jax.nami1k", "serve", *given, *own, *map(str, flags)]

    def start(self, *flags: Any, within: Callable[[list[str]], list[str]] = list) -> str:
        """Starts the server, waits until it serves, and returns its address; `within` changes the command."""
        return self.start_command(within(self.command(*flags)))

    def links(self) -> dict[str, str]:
        """Returns the path of each rater's newest link by name."""
        lines = Path(f"{self.votes}.links.txt").read_text().splitlines()
        return {name: "/r/" + link.rpartition("/")[2] for name, link in (line.split() for line in lines)}
