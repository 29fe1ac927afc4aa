"""What a rater is asked of two pictures, and what can be answered."""

from typing import Literal, get_args

Axis = Literal["relevance", "coherence", "aesthetics", "realism", "overall"]
Answer = Literal["left", "right", "tie", "both_bad"]
AXES: tuple[Axis, ...] = get_args(Axis)
ANSWERS: tuple[Answer, ...] = get_args(Answer)
