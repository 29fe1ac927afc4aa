"""What the experiments compare: each arm is `configs/styles.py`, as it was before them, with a few fields changed.

The first two are the method and its baseline. Every other arm changes one thing of the method, so that a table of all
says what each is worth; what wins is also tried together, and on the baseline. `trials` gives the variants by which the
method, the baseline and AdamW are tuned: as many for each. What `configs/styles.py` has taken over since is the arm
`ADOPTED`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from configs import styles

NAMI, SINGLE_FLOW = "nami", "single_flow"
ADOPTED = "contrastive_thin_first_stage"
STEPS = 18  # of the solver, for every arm
RATE, ADAMW_RATE = 8e-3, 4e-3


class Arm(NamedTuple):
    """What is changed, in words, and the fields of the config that it changes."""

    about: str
    changes: Mapping[str, Any]


def _stages(steps: tuple[int, ...], singles: tuple[int, ...], batches: tuple[tuple[int, ...], ...]) -> dict[str, Any]:
    assert sum(steps) == STEPS
    return {"sample.steps": steps, "model.stage_single_blocks": singles, "train.stage_batches": batches}


def _phases(batches: tuple[tuple[int, ...], ...], *rates: float) -> dict[str, Any]:
    starts = tuple(phase / len(rates) for phase in range(len(rates)))
    return {"train.stage_batches": batches, "train.phase_starts": starts, "train.phase_learning_rates": rates}


def _bridge(noise: float) -> dict[str, Any]:
    return {"bridge.kind": "full", "bridge.steps": 2000, "bridge.noise": noise, "sample.transition": "bridge"}


def _latents(lower_stages: str) -> dict[str, Any]:
    return {
        "model.channels": 4,
        "model.patch_size": 2,
        "data.name": "emoji_captions/styles_64",
        "data.side": 64,
        "data.lower_stages": lower_stages,
        "data.prepared": f"data/styles_64_{lower_stages}",
        "autoencoder.folder": "runs/autoencoder_styles/vae",
        "autoencoder.downscale": 4,
    }


BEFORE = _stages((6, 6, 6), (2, 3, 4), ((64, 32, 8), (32, 16, 24))) | {"train.contrastive_weight": 0.0}
SINGLE = _stages((18,), (4,), ((32,),)) | _phases(((32,),), RATE)
CONTRASTIVE = {"train.contrastive_weight": 0.05}
THIN = {"model.stage_single_blocks": (0, 2, 4)}
ARMS: Mapping[str, Arm] = {
    NAMI: Arm("three stages, 3, 4 and 5 layers, renoising", {}),
    SINGLE_FLOW: Arm("one stage: ordinary rectified flow", SINGLE),
    # The last stage's share of each phase's FLOPs is kept.
    "two_stages": Arm("two stages", _stages((9, 9), (3, 4), ((57, 8), (28, 24)))),
    "four_stages": Arm("four stages", _stages((5, 5, 4, 4), (1, 2, 3, 4), ((64, 64, 32, 8), (32, 32, 16, 24)))),
    "uniform_depth": Arm("every stage runs all 5 layers", {"model.stage_single_blocks": (4, 4, 4)}),
    "published_depth": Arm("2, 4 and 5 layers: 9:7:6 as published", {"model.stage_single_blocks": (1, 3, 4)}),
    "thin_first_stage": Arm("1, 3 and 5 layers", THIN),
    "one_phase": Arm("equal FLOPs for each stage all the time", _phases(((93, 36, 9),), RATE)),
    "fine_phase": Arm("most images full size all the time", _phases(((24, 12, 24),), RATE)),
    "published_phases": Arm(
        "the published three phases",
        _phases(((32, 16, 8), (16, 32, 8), (8, 16, 32)), RATE, RATE, RATE / 2),
    ),
    "adamw": Arm(
        "AdamW for all parameters",
        {"train.optimizer": "adamw", "train.phase_learning_rates": (ADAMW_RATE, ADAMW_RATE)},
    ),
    "contrastive": Arm("contrastive flow matching, weight 0.05", CONTRASTIVE),
    ADOPTED: Arm("contrastive flow matching, and 1, 3 and 5 layers", CONTRASTIVE | THIN),
    "contrastive_single_flow": Arm("one stage, with contrastive flow matching", SINGLE | CONTRASTIVE),
    "uniform_times": Arm("training times uniform within a stage", {"flow.time_sampling": "uniform"}),
    "u_shaped_times": Arm("training times mostly near a stage's ends", {"flow.time_sampling": "u_shaped"}),
    "bridge": Arm("a learned bridge as published, trained beforehand", _bridge(0.0)),
    "noisy_bridge": Arm("the same with half of the renoising noise", _bridge(0.5)),
    "latents": Arm("64x64 pixels as 16x16 latents, pooled for the lower stages", _latents("latents")),
    "encoded_lower_stages": Arm("the same, pooled in pixels and then encoded", _latents("pixels")),
}


def trials(name: str) -> dict[str, Arm]:
    """Returns the variants of an arm by which it is tuned: half and twice its learning rate, and its batches."""
    arm, config = ARMS[name], configured(ARMS[name])
    rates, batches = config.train.phase_learning_rates, config.train.stage_batches
    found = {}
    for word, factor in (("half", 0.5), ("twice", 2)):
        rate = {"train.phase_learning_rates": tuple(factor * rate for rate in rates)}
        batch = {"train.stage_batches": tuple(tuple(int(factor * count) for count in batch) for batch in batches)}
        found[f"{name}_{word}_rate"] = Arm(f"{arm.about}; {word} the learning rate", {**arm.changes, **rate})
        found[f"{name}_{word}_batch"] = Arm(f"{arm.about}; {word} the images of a step", {**arm.changes, **batch})
    return found


def all_arms() -> dict[str, Arm]:
    """Returns every arm by name, the trials among them."""
    return {**ARMS, **trials(NAMI), **trials(SINGLE_FLOW), **trials("adamw")}


def configured(arm: Arm) -> ConfigDict:
    """Returns the config of an arm."""
    config = styles.get_config()
    config.update_from_flattened_dict({**BEFORE, **arm.changes})
    return config
