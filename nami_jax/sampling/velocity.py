"""The velocity that the sampler follows in a stage: the network's, with or without guidance."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nami_jax.flow.solver import double, guide
from nami_jax.flow.stages import Stage
from nami_jax.models.layout import Layout
from nami_jax.models.nami import Conditions, Nami


class Guidance(NamedTuple):
    """What leads the flow.

    Attributes:
        text: token states (2B, T, D) and pooled vectors (2B, P), the prompts' and then the negative prompts'.
        scale: () float32, of the guided steps.
        rescale: () float32 in [0, 1], how far they are rescaled, where the program does that.
    """

    text: tuple[Any, Any]
    scale: Any
    rescale: Any = np.float32(0)


class StageProgram(NamedTuple):
    """What the compiled function of a stage is made for, beside the shapes of its arguments.

    Attributes:
        stage: the stage k.
        before: stage k-1, or None.
        solver: its name in `SOLVERS`.
        layout: how images and the network are spread over devices.
        guided: (N,) which steps are guided; the others pass half the batch.
        zero_star: whether guidance is CFG-Zero*'s.
        rescaled: whether it is rescaled.
    """

    stage: Stage
    before: Stage | None
    solver: str
    layout: Layout
    guided: tuple[bool, ...]
    zero_star: bool = False
    rescaled: bool = False


class StageVelocity(NamedTuple):
    """The velocity of a stage's latents, with what does not depend on them computed beforehand.

    Attributes:
        prepare: maps global times (N,) to the network's `Conditions` at each, with a leading axis N.
        at: maps latents (B, H, W, C) and one of these conditions to the velocity (B, H, W, C).
    """

    prepare: Callable[[Any], Conditions]
    at: Callable[[jax.Array, Conditions], jax.Array]

    def __call__(self, x: jax.Array, t: Any) -> jax.Array:
        """Maps latents (B, H, W, C) and one global time () to the velocity."""
        return self.at(x, jax.tree.map(lambda part: part[0], self.prepare(jnp.asarray(t)[None])))


def stage_velocity(model: Nami, guidance: Guidance, program: StageProgram, guided: bool) -> StageVelocity:
    """Returns the velocity of a stage: guided, with both halves of the guided batch in one forward pass, or not.

    Args:
        model: the network.
        guidance: text states of both halves, and the scale.
        program: the stage, and what kind of guidance.
        guided: whether it is; if not, the prompts' half of the text states alone counts.
    """
    stage, layout = program.stage.number, program.layout
    embeds, pooled = guidance.text if guided else (states[: len(states) // 2] for states in guidance.text)
    text, pooled = model.text_in(layout.latents(embeds)), model.pooled_in(layout.latents(pooled))
    params = model.take_apart(stage) if layout.takes_apart else None

    def prepare(times):
        return jax.vmap(lambda t: model.conditions(t[None], pooled, stage=stage, layout=layout))(jnp.asarray(times))

    def at(x, conditions):
        both = layout.latents(double(x) if guided else x)
        predicted = model.velocity(both, text, conditions, stage=stage, layout=layout, params=params)
        if guided:
            rescale = guidance.rescale if program.rescaled else None
            predicted = guide(predicted, guidance.scale, rescale, program.zero_star)
        return layout.latents(predicted)

    return StageVelocity(prepare, at)
