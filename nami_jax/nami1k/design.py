"""The table that NAMI-1K was written to, `design.json`, and the check that the prompts fulfil it.

Of every topic it says how many prompts there are of each kind, how long they are, and how many carry each tag at least,
in the topic and in each of its kinds; of every style, how many prompts name it.
"""

import collections
from collections.abc import Iterator, Sequence
from pathlib import Path

import pydantic

from nami_jax.nami1k.prompt_set import Kind, Prompt, Tag, plain

PACKAGED = Path(__file__).with_name("design.json")


class KindDesign(pydantic.BaseModel, frozen=True, extra="forbid"):
    """What a topic has of one kind of prompts."""

    prompts: int
    words: tuple[int, int]  # fewest and most, English
    tags: dict[Tag, int]  # prompts that carry a tag, at least


class Design(pydantic.BaseModel, frozen=True, extra="forbid"):
    """The table.

    Attributes:
        topics: in the set's order.
        kinds: what every topic has of each.
        tags_of_a_topic: prompts that carry a tag, at least.
        styles: fewest and most prompts of a style in the whole set.
    """

    topics: tuple[str, ...]
    kinds: dict[Kind, KindDesign]
    tags_of_a_topic: dict[Tag, int]
    styles: dict[str, tuple[int, int]]


def read_design() -> Design:
    """Reads the packaged table."""
    return Design.model_validate_json(PACKAGED.read_bytes())


def shortfalls(design: Design, prompts: Sequence[Prompt]) -> list[str]:
    """Returns what the prompts owe the table, a line each; none if they fulfil it."""
    return [*_of_prompts(design, prompts), *_of_cells(design, prompts), *_of_styles(design, prompts)]


def _of_prompts(design: Design, prompts: Sequence[Prompt]) -> Iterator[str]:
    beginnings: dict[tuple[str, ...], str] = {}
    for prompt in prompts:
        low, high = design.kinds[prompt.kind].words
        words = len(prompt.en.split())
        if not low <= words <= high:
            yield f"{prompt.id}: {words} words, {prompt.kind} prompts have {low} to {high}"
        text = prompt.tags.get("text", {})
        if text.get("en") != text.get("zh"):
            yield f"{prompt.id}: the lettering asked for differs between the languages"
        first = beginnings.setdefault((prompt.topic, *plain(prompt.en).split()[:3]), prompt.id)
        if first != prompt.id:
            yield f"{prompt.id}: begins with the same three words as {first} of its topic"


def _of_cells(design: Design, prompts: Sequence[Prompt]) -> Iterator[str]:
    if topics := {prompt.topic for prompt in prompts} ^ set(design.topics):
        yield f"topics: {', '.join(sorted(topics))} stand in one of the two alone"
    for topic in design.topics:
        own = [prompt for prompt in prompts if prompt.topic == topic]
        yield from _too_few(topic, own, design.tags_of_a_topic)
        for kind, cell in design.kinds.items():
            some = [prompt for prompt in own if prompt.kind == kind]
            if len(some) != cell.prompts:
                yield f"{topic}, {kind}: {len(some)} prompts, not {cell.prompts}"
            yield from _too_few(f"{topic}, {kind}", some, cell.tags)


def _too_few(place: str, prompts: Sequence[Prompt], least: dict[Tag, int]) -> Iterator[str]:
    for tag, count in least.items():
        found = sum(tag in prompt.tags for prompt in prompts)
        if found < count:
            yield f"{place}: {found} prompts with {tag}, at least {count} are due"


def _of_styles(design: Design, prompts: Sequence[Prompt]) -> Iterator[str]:
    counts = collections.Counter(prompt.style for prompt in prompts)
    for style in sorted(counts.keys() | design.styles.keys()):
        low, high = design.styles.get(style, (0, 0))
        if not low <= counts[style] <= high:
            yield f"style {style}: {counts[style]} prompts, {low} to {high} are due"
