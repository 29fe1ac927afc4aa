"""The stages of a progressive flow: which sizes and which noise levels each one covers. Everything else follows."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Stage:
    """One resolution stage of the flow.

    Attributes:
        number: k in 1 (coarsest) ... K (finest).
        downscale: the final side divided by this stage's side, 2^(K-k).
        sigma_start: noise level at which the stage begins (local time tau = 1).
        sigma_end: noise level at which it ends (tau = 0).
        time_start: global time at tau = 1, as the network's time embedding sees it before the factor 1000.
        time_end: global time at tau = 0.
    """

    number: int
    downscale: int
    sigma_start: float
    sigma_end: float
    time_start: float
    time_end: float

    def global_time(self, tau):
        """Maps local time `tau` (float or array, 1 = stage start, 0 = stage end) to the network's global time."""
        return self.time_end + tau * (self.time_start - self.time_end)


def make_stages(num_stages: int, sigma_ends: Sequence[float] | None = None) -> tuple[Stage, ...]:
    """Builds the K stages, coarsest first. K = 1 is ordinary rectified flow.

    A stage starts at a higher noise level than the one before it ended: upsampling leaves noise that is constant in
    2x2 blocks, and only at the level 2e/(1+e) can added noise make it white (see `transition.renoise`). The stages'
    lengths in noise level, laid end to end and normalised, are the global time of the network's embedding.

    Args:
        num_stages: K >= 1.
        sigma_ends: noise level at the end of each stage, falling strictly to 0.0. None takes (K-k)/K.

    Returns:
        K stages with windows for K = 3: noise 1 -> 2/3, 0.8 -> 1/3, 0.5 -> 0; global time 1 -> 29/39 -> 15/39 -> 0.

    Raises:
        ValueError: `sigma_ends` has another length than K.

    Source: NAMI, arXiv 2503.09242, sec. 3.1; Pyramidal Flow Matching, arXiv 2410.05954, sec. 3.2.
    """
    ends = [(num_stages - k) / num_stages for k in range(1, num_stages + 1)] if sigma_ends is None else list(sigma_ends)
    if len(ends) != num_stages:
        raise ValueError(f"sigma_ends = {sigma_ends}: {num_stages} stages need {num_stages} values.")
    starts = [1.0] + [renoised_sigma(e) for e in ends[:-1]]
    lengths = [start - end for start, end in zip(starts, ends, strict=True)]
    times = [sum(lengths[k:]) / sum(lengths) for k in range(num_stages + 1)]
    return tuple(
        Stage(k + 1, 2 ** (num_stages - k - 1), starts[k], ends[k], times[k], times[k + 1]) for k in range(num_stages)
    )


def renoised_sigma(sigma_end: float) -> float:
    """Returns the noise level after the jump from a stage that ended at `sigma_end`: 2e/(1+e)."""
    return 2 * sigma_end / (1 + sigma_end)
