"""What to change in a run that does not fit, cheapest first."""

import dataclasses
from collections.abc import Iterator, Sequence

from nami_jax.config import Config, ConfigError
from nami_jax.monitoring.chips import CHIPS, GIB
from nami_jax.parallel.sharding import make_mesh
from nami_jax.planning.gpu_targets import LARGEST_SHARE, SHARE
from nami_jax.planning.hardware import HOST, Hardware
from nami_jax.planning.memory import Measured, state_parts
from nami_jax.planning.programs import run_state


def remedies(
    cfg: Config, hardware: Hardware, stage_batch: Sequence[int], measured: Measured, largest: Sequence[int] | None
) -> Iterator[str]:
    """Yields what may make the training step fit: only what applies.

    Args:
        cfg: the run.
        hardware: what it does not fit.
        stage_batch: the images of stage 1..K that do not fit.
        measured: the training step on them.
        largest: the largest batch of the same ratios that does fit; None: none does, or none is known.
    """
    mesh, model = cfg.mesh, cfg.model
    if hardware.memory_total and hardware.memory_limit < LARGEST_SHARE * hardware.memory_total:
        share, most = hardware.memory_limit / hardware.memory_total, LARGEST_SHARE * hardware.memory_total
        yield (
            f"{SHARE}={LARGEST_SHARE} in the environment of the run, and of this plan, instead of {share:g}: jax may "
            f"take {most / GIB:.1f} GiB of each device instead of {hardware.memory_limit / GIB:.1f}"
        )
    if wider := _wider_fsdp(cfg, hardware, measured):
        fsdp, now, then = wider
        yield (
            f"mesh.fsdp = {fsdp} instead of {mesh.fsdp}: parameters, EMA and moments take {then / GIB:.2f} GiB "
            f"on each device instead of {now / GIB:.2f}"
        )
    if not model.remat:
        yield "model.remat = True: each block's activations are recomputed instead of kept; a third more FLOPs"
    if not model.scan_blocks:
        yield "model.scan_blocks = True: the blocks share one block's code and workspace"
    if largest:
        yield f"train.stage_batches = {tuple(largest)} instead of {tuple(stage_batch)}, with learning rates to match"
    each = len(hardware.devices) // (mesh.tensor * mesh.sequence)
    if not largest and each > 1:
        yield (
            f"mesh.sequence = {2 * mesh.sequence} or mesh.tensor = {2 * mesh.tensor}: more devices share each "
            f"image, so that a stage's images need only be a multiple of {each // 2}"
        )
    if hardware.name != HOST:
        larger = f", or chips with more memory: {', '.join(names)}" if (names := _larger_chips(hardware)) else ""
        yield f"more chips (a larger --topology) with a larger mesh.fsdp{larger}"


def _larger_chips(hardware: Hardware) -> list[str]:
    """Returns the same maker's chips that have more memory."""
    mine = hardware.chip
    return [
        chip.name
        for chip in CHIPS
        if mine is not None
        and chip.memory_bytes > mine.memory_bytes
        and chip.device_kinds[0].split()[0] == mine.device_kinds[0].split()[0]
    ]


def _wider_fsdp(cfg: Config, hardware: Hardware, measured: Measured) -> tuple[int, int, int] | None:
    """Returns the smallest fsdp that should do (else the largest there can be), and the state's bytes now and then."""
    devices = len(hardware.devices) // (cfg.mesh.tensor * cfg.mesh.sequence)
    now, best = _state_bytes(cfg, hardware), None
    for fsdp in range(2 * cfg.mesh.fsdp, devices + 1, cfg.mesh.fsdp):
        if devices % fsdp:
            continue
        try:
            then = _state_bytes(dataclasses.replace(cfg, mesh=dataclasses.replace(cfg.mesh, fsdp=fsdp)), hardware)
        except ConfigError:  # a parameter that so many devices cannot share
            continue
        best = fsdp, now, then
        if measured.total - now + then <= hardware.memory_limit:
            break
    return best


def _state_bytes(cfg: Config, hardware: Hardware) -> int:
    return sum(state_parts(run_state(cfg, make_mesh(cfg.mesh, hardware.devices))).values())
