"""What is shown to a rater: two pictures of a prompt, or a check that looks alike."""

from dataclasses import dataclass

KINDS = ("pair", "shared", "repeat", "noised", "other_prompt")
SIDES = ("left", "right")


@dataclass(frozen=True)
class Showing:
    """What is shown to a rater at one place of their row.

    Attributes:
        kind: "pair"; "shared", a pair that all raters get; "repeat", a pair of theirs again with its sides swapped;
            "noised" or "other_prompt", where one side is spoiled.
        prompt: its id.
        left: number of the model whose picture is on the left.
        right: that on the right; a spoiled pair has one model on both sides.
        spoiled: the side that has noise over it, or another prompt's picture.
        other_prompt: of which that picture is.
        repeats: sequence number of the assignment that is shown again.
    """

    kind: str
    prompt: str
    left: int
    right: int
    spoiled: str | None = None
    other_prompt: str | None = None
    repeats: int | None = None


@dataclass(frozen=True)
class Assignment:
    """A showing that was given to a rater: its sequence number, opaque id, and place in the rater's row from 0."""

    sequence: int
    id: str
    rater: int
    place: int
    showing: Showing
