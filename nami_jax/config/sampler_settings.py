"""The sampler's settings, and those that have a name."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Self, TypedDict

import pydantic

from nami_jax.config.settings import ConfigError, Settings, field, nearest, require, settings, shown

Scale = Annotated[float, pydantic.Field(ge=0, le=1000)]  # of guidance
Moment = Annotated[float, pydantic.Field(ge=0, le=1)]  # a local or global time
SolverSteps = Annotated[int, pydantic.Field(ge=1, le=10_000)]


@settings("sample")
class SampleConfig(Settings):
    """Defaults of the sampler, also used for the grids made during training."""

    steps: tuple[SolverSteps, ...] = field("solver steps per stage", default=(10, 10, 10), may_change=True)
    guidance_scale: Scale | tuple[Scale, ...] = field(
        "1 or less means no guidance, at half the cost; one number, or one per stage",
        default=3.0,
        may_change=True,
    )
    guidance_interval: tuple[Moment, Moment] = field(
        "global times between which there is guidance; the steps that begin outside cost half",
        default=(0.0, 1.0),
        may_change=True,
    )
    guidance_rescale: float = field(
        "how far guidance gives back the velocity's own spread; 0: not at all, 1: fully (arXiv 2305.08891)",
        default=0.0,
        may_change=True,
        ge=0,
        le=1,
    )
    cfg_zero_star: bool = field(
        "CFG-Zero*: scale the unconditional velocity to fit the conditional one best (arXiv 2503.18886)",
        default=False,
        may_change=True,
    )
    zero_init_steps: int = field(
        "CFG-Zero*'s other half: the first steps of the first stage, whose velocity counts as 0; they cost nothing",
        default=0,
        may_change=True,
        ge=0,
        le=10_000,
    )
    grid: Literal["linear", "released"] = field(
        "time grid; released: the released scheduler's, for parity with it", default="linear", may_change=True
    )
    shift: float = field(
        "s > 1 moves each stage's steps towards its start, s < 1 towards its end: local time tau -> "
        "s tau / (1 + (s - 1) tau), as SD3 (arXiv 2403.03206) does with the time of all noise",
        default=1.0,
        may_change=True,
        gt=0,
        le=100,
    )
    taus: tuple[tuple[Moment, ...], ...] | None = field(
        "your own time grid: for each stage its steps + 1 local times, falling from 1 to 0; None: by grid and shift",
        default=None,
        example=((1.0, 0.5, 0.0), (1.0, 0.0), (1.0, 0.0)),
        may_change=True,
    )
    solver: Literal["euler", "heun", "midpoint", "ab2"] = field(
        "ODE solver; heun and midpoint ask for two velocities a step, ab2 (Adams-Bashforth) for one",
        default="euler",
        may_change=True,
    )
    transition: Literal["renoise", "bridge"] = field(
        "the jump between stages; bridge: for a model that has one", default="renoise", may_change=True
    )

    def __post_init__(self) -> None:
        stages, scales = len(self.steps), self.guidance_scale
        require(
            not isinstance(scales, tuple) or len(scales) == stages,
            field="sample.guidance_scale",
            value=scales,
            rule=f"there are steps for {stages} stages",
            remedy=f"Set one number, or {stages}",
        )
        low, high = self.guidance_interval
        require(
            low <= high,
            field="sample.guidance_interval",
            value=self.guidance_interval,
            rule="must be its lower end and then its upper one",
            remedy=f"Set {(high, low)}",
        )
        require(
            stages == 0 or self.zero_init_steps < self.steps[0],
            field="sample.zero_init_steps",
            value=self.zero_init_steps,
            rule=f"the first stage has {self.steps[:1]} steps, and one must do something",
            remedy="Set fewer, or more steps",
        )
        require(
            self.grid == "linear" or (self.shift == 1 and self.taus is None),
            field="sample.grid",
            value=self.grid,
            rule="the released grid has no shift and no taus",
            remedy="Set 'linear', or shift = 1.0 and taus = None",
        )
        if self.taus is not None:
            self._require_taus(self.taus)

    def _require_taus(self, taus: tuple[tuple[float, ...], ...]) -> None:
        """Checks that each stage's local times fall from 1 to 0, and are one more than its steps."""
        require(
            tuple(len(stage) - 1 for stage in taus) == self.steps,
            field="sample.taus",
            value=taus,
            rule=f"each stage needs one local time more than its steps, of which there are {self.steps}",
            remedy=f"Set steps = {tuple(max(len(stage) - 1, 1) for stage in taus)}",
        )
        require(
            all(t[0] == 1 and t[-1] == 0 and all(a > b for a, b in itertools.pairwise(t)) for t in taus),
            field="sample.taus",
            value=taus,
            rule="the local times of each stage must fall from 1 to 0",
            remedy="Set e.g. (1.0, 0.5, 0.0) for a stage of two steps",
        )
        require(
            self.shift == 1,
            field="sample.shift",
            value=self.shift,
            rule="taus are a grid of their own, which is not shifted",
            remedy="Set shift = 1.0 or taus = None",
        )

    def changed(self, given: Mapping[str, Any]) -> Self:
        """Returns these settings with those in `given` that are not None.

        Local times are of so many steps: given anew, they bring their own number, and another number drops them.

        Raises:
            ConfigError: a value that cannot work.
        """
        given = {name: value for name, value in given.items() if value is not None}
        if "taus" in given and "steps" not in given:
            taus = given["taus"]
            if isinstance(taus, Sequence) and all(isinstance(stage, Sequence) for stage in taus):
                given = {"grid": "linear", "shift": 1.0} | given | {"steps": [max(len(t) - 1, 1) for t in taus]}
        elif given.keys() & {"steps", "grid", "shift"}:
            given = {"taus": None} | given
        return self.from_dict(self.to_dict() | given)

    @property
    def stage_scales(self) -> tuple[float, ...]:
        """The guidance scale of each stage."""
        scales = self.guidance_scale
        return scales if isinstance(scales, tuple) else (scales,) * len(self.steps)


class SampleChanges(TypedDict, total=False):
    """Fields of `SampleConfig` as a caller gives them, each of which may be None: as it was."""

    steps: Sequence[int] | None
    guidance_scale: float | Sequence[float] | None
    guidance_interval: Sequence[float] | None
    guidance_rescale: float | None
    cfg_zero_star: bool | None
    zero_init_steps: int | None
    grid: str | None
    shift: float | None
    taus: Sequence[Sequence[float]] | None
    solver: str | None
    transition: str | None


class Budget(NamedTuple):
    """Settings for a share of the cost, whatever the model's stages.

    Attributes:
        last: steps of the last stage, as a share of the model's own, rounded up; that stage is most of the cost.
        earlier: likewise of each stage before it.
        changes: what else differs from the model's own settings.
    """

    last: float
    earlier: float
    changes: Mapping[str, Any]

    def of(self, own: SampleConfig) -> SampleConfig:
        """Returns the settings of a model whose own are `own`: its guidance scale and its jumps stay."""
        shares = (*[self.earlier] * (len(own.steps) - 1), self.last)
        steps = [math.ceil(share * count) for share, count in zip(shares, own.steps, strict=True)]
        return own.changed({"steps": steps, "grid": "linear", **self.changes})


# No guidance where the last of three stages works, which is most of the cost.
UNGUIDED_END = {"guidance_interval": (0.39, 1.0), "shift": 1.6, "cfg_zero_star": True}

# Sampler settings by name. "released": what the demo of the released NAMI-2B uses. The others were found by
# `python -m benchmarks.budget`: docs/presets.md has what they cost and lose.
SAMPLE_PRESETS: dict[str, SampleConfig | Budget] = {
    "released": SampleConfig((10, 10, 10), 3.0, grid="released", solver="euler", transition="bridge"),
    "fast": Budget(0.7, 1.0, UNGUIDED_END),
    "balanced": Budget(1.2, 1.0, UNGUIDED_END),
    "best": Budget(2.0, 1.0, UNGUIDED_END),
}


class PresetPrompt(NamedTuple):
    """Texts that go with a preset."""

    suffix: str = ""  # added to each prompt
    negative: str = ""  # the negative prompt, where none is given


# Of the released NAMI-2B's demo, which was tuned with them.
PRESET_PROMPTS = {
    "released": PresetPrompt(
        ".extremely detailed,best quality,high quality,perfect composition",
        "(face asymmetry, eyes asymmetry, deformed eyes, open mouth)",
    )
}


def preset_prompt(name: str | None) -> PresetPrompt:
    """Returns the texts that go with the preset called `name`, empty ones with most."""
    return PRESET_PROMPTS.get(name or "", PresetPrompt())


def sample_preset(name: str, own: SampleConfig) -> SampleConfig:
    """Returns the settings called `name` in `SAMPLE_PRESETS`, for a model whose own settings are `own`.

    Raises:
        ConfigError: there is no such preset.
    """
    if name not in list(SAMPLE_PRESETS):  # a list: a name may be of any type, also an unhashable one
        hint = nearest(name[:80] if isinstance(name, str) else "", list(SAMPLE_PRESETS))
        raise ConfigError(f"preset = {shown(name)}: no such preset.{hint}")
    preset = SAMPLE_PRESETS[name]
    return preset.of(own) if isinstance(preset, Budget) else preset
