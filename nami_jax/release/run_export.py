"""A training run of ours in the layout of a release: its EMA weights, low-rank pairs merged in, and its bridge."""

from pathlib import Path

from nami_jax.checkpoints.runs import load_run
from nami_jax.config import require
from nami_jax.models.bridge import Bridge
from nami_jax.release.exporting import export_network
from nami_jax.weights.nami_keys import export_bridge, export_nami


def export_run(workdir: Path, target: Path, *, step: int | None = None, as_safetensors: bool = False) -> None:
    """Writes the weights of a training run as a release has them: `transformer/` and, if there is one, the bridge.

    Args:
        workdir: of the run.
        target: a new folder.
        step: which checkpoint; None takes the newest.
        as_safetensors: write safetensors files instead of pickles, which needs no torch.

    Raises:
        CheckpointError: there is no finished checkpoint, or it cannot be read.
        ConfigError: `target` exists, or the run's bridge has a form that no release has.
        WeightsError: the release's layout cannot express this network.
        ModuleNotFoundError: pickles are to be written, and torch is not installed.
    """
    run = load_run(workdir, step)
    require(
        run.bridge is None or isinstance(run.bridge, Bridge),
        field="bridge.kind",
        value=run.cfg.bridge.kind,
        rule="a release has bridges of the kind 'full' only",
        remedy="Export a run with that kind, or with none",
    )
    bridge = export_bridge(run.bridge) if isinstance(run.bridge, Bridge) else None
    export_network(target, run.model.cfg, export_nami(run.model), bridge, as_safetensors=as_safetensors)
