"""What a run begins from: another run, or converted weights. It says what the config leaves open, and is only read."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax import nnx

from nami_jax.checkpoints.checkpoint import CheckpointError, Checkpoints
from nami_jax.checkpoints.runs import (
    load_folder,
    load_run,
    open_folder,
    placed,
    require_same_network,
    require_same_size,
)
from nami_jax.checkpoints.workdir import RUN_CONFIG, finished_steps
from nami_jax.config import Config, ConfigError, ModelConfig, PipelineConfig, fixed_fields, require
from nami_jax.config.flow_run import TASK
from nami_jax.config.settings import declared
from nami_jax.models.bridge import new_bridge
from nami_jax.models.nami import abstract_model
from nami_jax.weights import Shardings, open_tensors
from nami_jax.weights.converted import BRIDGE, PIPELINE_FILE, TRANSFORMER, inside, read_pipeline_config
from nami_jax.weights.nami_keys import read_bridge

TAKEN = ("model", "flow", "text", "autoencoder", "sample")  # sections whose unset fields are the origin's


class Origin(NamedTuple):
    """Where `train.init_from` points."""

    folder: Path
    is_run: bool  # else it has converted weights
    step: int | None  # of the run; None: the newest

    @property
    def settings(self) -> PipelineConfig:
        """What it says of its model; raises `ConfigError` if it is damaged, or the run is not of a flow."""
        if not self.is_run:
            return inside(read_pipeline_config(self.folder), self.folder)
        found = _saved_fields(self.folder)
        if found is not None:
            require(
                found.get("task", TASK) == TASK,
                field="train.init_from",
                value=str(self.folder),
                rule=f"is a run whose task is {found.get('task')!r}",
                remedy="Set the workdir of a flow's run",
            )
            return Config.from_dict(found).located().pipeline
        try:
            with Checkpoints(self.folder) as checkpoints:
                return checkpoints.latest_valid(checkpoints.config).located().pipeline
        except CheckpointError as error:
            raise ConfigError(f"train.init_from = {str(self.folder)!r}: {error}") from error


def find_origin(init_from: str) -> Origin:
    """Finds what `train.init_from` names, without reading weights.

    Raises:
        ConfigError: nothing to start from is there.
    """
    folder, step = _split(init_from)
    converted = (folder / PIPELINE_FILE).is_file() and (folder / TRANSFORMER).is_dir()
    steps = finished_steps(folder)
    remedy = (
        "Set a run's workdir, or the FOLDER that `python -m nami_jax.convert --from RELEASE --to FOLDER` makes of a "
        "release"
    )
    for condition, rule, what in (
        (converted or (folder / "checkpoints").is_dir(), "contains no converted weights and is no run", remedy),
        (converted or bool(steps), "is a run without a finished checkpoint", "Train it until its next save"),
        (not (converted and step is not None), "is no run that has steps", f"Set {str(folder)!r}"),
        (converted or step is None or step in steps, f"the run has checkpoints of {steps}", "Set one of them"),
    ):
        require(condition, field="train.init_from", value=init_from, rule=rule, remedy=what)
    return Origin(folder, not converted, step)


def _split(init_from: str) -> tuple[Path, int | None]:
    """Returns the folder that `train.init_from` names, and the step behind an @ after it."""
    name, at, number = init_from.rpartition("@")
    if at and number.isdecimal() and not Path(init_from).exists():
        return Path(name), int(number)
    return Path(init_from), None


def completed(fields: Mapping[str, Any], workdir: Path | None = None) -> dict[str, Any]:
    """Fills in what the config of a flow leaves None, or leaves out, of what `train.init_from` says of its model.

    That is sizes, windows, text encoder, autoencoder, side of the images and sampler; and the bridge, where neither
    `bridge.kind` nor `sample.transition` is set. A run that has begun knows these itself, so that it can be continued
    when its origin has gone.

    Args:
        fields: the config as nested dicts.
        workdir: of the run; None: it is not begun.

    Returns:
        The config, for `Config.from_dict`.

    Raises:
        ConfigError: there is nothing at `train.init_from` to take them from, it has a network of other sizes than
            those that are set, or it is the workdir itself.
    """
    train = fields.get("train")
    init_from = train.get("init_from") if isinstance(train, Mapping) else None
    unset = _unset_sizes(fields)
    require(
        init_from is not None or not unset,
        field="train.init_from",
        value=None,
        rule=f"this config takes {', '.join(unset[:3])}{' and more' if unset[3:] else ''} from there",
        remedy="Set a run's workdir or a folder of converted weights, e.g. --config.train.init_from=runs/emoji_tiny",
    )
    if not isinstance(init_from, str):
        return dict(fields)
    folder, _ = _split(init_from)
    if workdir is not None:
        _require_apart(workdir, folder, init_from)
    own = None if workdir is None else begun_fields(workdir)
    if own is not None:
        return _filled(fields, Config.from_dict(own).located().pipeline)
    if not unset and not folder.exists():
        return dict(fields)  # a plan can be made without the weights; a run looks for them when it begins
    origin = find_origin(init_from)
    known = origin.settings
    for name, value in _mapping(fields.get("model")).items():
        if value is not None and name in fixed_fields(Config)["model"] and name != "lora_rank":
            same = tuple(value) if isinstance(value, list) else value
            require_same_size(name, same, getattr(known.model, name), origin.folder)
    return _filled(fields, known)


def begun_fields(workdir: Path) -> Mapping[str, Any] | None:
    """Returns the config of the flow's run in a workdir, as nested dicts; None if it has no checkpoint yet."""
    found = _saved_fields(workdir) if finished_steps(workdir) else None
    return None if found is None or found.get("task", TASK) != TASK else found


def _saved_fields(workdir: Path) -> Mapping[str, Any] | None:
    try:
        found = json.loads((workdir / RUN_CONFIG).read_text())
    except (OSError, ValueError):  # its checkpoints say it too
        return None
    return found if isinstance(found, Mapping) else None


def _mapping(section: Any) -> Mapping[str, Any]:
    return section if isinstance(section, Mapping) else {}


def _unset_sizes(fields: Mapping[str, Any]) -> list[str]:
    """Names the fields of the model that are None and may not be."""
    model = _mapping(fields.get("model"))
    required = (f.name for f in declared(ModelConfig) if f.default is not None)
    return [f"model.{name}" for name in required if name in model and model[name] is None]


def _filled(fields: Mapping[str, Any], known: PipelineConfig) -> dict[str, Any]:
    """Returns the fields with those of `known` in the place of those that are None."""
    filled = {name: dict(value) if isinstance(value, Mapping) else value for name, value in fields.items()}
    for name in (*TAKEN, "data", "bridge"):
        filled.setdefault(name, {})
    if not all(isinstance(filled[name], dict) for name in (*TAKEN, "data", "bridge")):
        return filled  # which is refused when it is read
    if filled["sample"].get("transition") is None:
        filled["bridge"]["kind"] = filled["bridge"].get("kind") or known.bridge.kind
        filled["sample"]["transition"] = "bridge" if filled["bridge"]["kind"] else "renoise"
    if filled["bridge"].get("noise") is None:
        filled["bridge"]["noise"] = known.bridge.noise if filled["bridge"].get("kind") else 0.0
    if filled["data"].get("side") is None:
        filled["data"]["side"] = known.side
    have = known.to_dict()
    for name in TAKEN:
        own = filled[name]
        # A folder is of the encoder, or of the downscale, that is set beside it.
        beside = {"text": "encoder", "autoencoder": "downscale"}.get(name)
        other = beside is not None and own.get(beside) not in (None, have[name][beside])
        for field, value in have[name].items():
            if own.get(field) is None and field != "lora_rank" and not (other and field == "folder"):
                own[field] = value
    return filled


def _require_apart(workdir: Path, folder: Path, init_from: str) -> None:
    require(
        not workdir.resolve().is_relative_to(folder.resolve()),
        field="train.init_from",
        value=init_from,
        rule=f"{workdir} lies in it, and what a run begins from is not written to",
        remedy="Use another --workdir",
    )


def open_base(cfg: Config) -> Mapping[str, Any]:
    """Opens the network that a run starts from, tensors or their shapes by name, and reads none.

    Raises:
        ConfigError: it is missing, or another network than `cfg.model`.
        WeightsError: its files are damaged or incomplete.
    """
    origin = find_origin(cfg.train.init_from or "")
    if not origin.is_run:
        return open_folder(origin.folder, cfg.model)
    found = origin.settings.model
    require_same_network(found, cfg.model, origin.folder)
    leaves = jax.tree_util.tree_leaves_with_path(abstract_model(dataclasses.replace(found, lora_rank=None))[1])
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def load_base(cfg: Config, shardings: Shardings | None = None) -> Any:
    """Loads the parameters that a run starts from, as nested dicts, float32.

    Args:
        cfg: the run.
        shardings: abstract parameters -> shardings; None puts all on the first device.

    Raises:
        CheckpointError: it starts from a run whose checkpoint is damaged.
        ConfigError: there is nothing to start from, or another network than `cfg.model`.
        WeightsError: weights are damaged or incomplete.
    """
    origin = find_origin(cfg.train.init_from or "")
    if not origin.is_run:
        return load_folder(origin.folder, cfg.model, "float32", shardings)
    run = load_run(origin.folder, origin.step, shardings=shardings)
    require_same_network(run.cfg.model, cfg.model, origin.folder)
    return nnx.to_pure_dict(nnx.state(run.model))


def load_base_bridge(cfg: Config) -> Any | None:
    """Loads the parameters of the bridge at `train.init_from`; None if the run has none, or one of another kind.

    Raises:
        CheckpointError: it is a run's whose checkpoint is damaged.
        ConfigError: the bridge is for other sizes than those of the run.
    """
    if cfg.train.init_from is None or cfg.bridge.kind is None:
        return None
    origin = find_origin(cfg.train.init_from)
    known = origin.settings
    if known.bridge.kind != cfg.bridge.kind:
        return None
    if origin.is_run:
        return _run_bridge(cfg, origin)
    bridge = read_bridge(cfg.bridge.kind, known.model, open_tensors(origin.folder / BRIDGE))
    params = nnx.to_pure_dict(nnx.state(bridge))
    _require_same_bridge(cfg, params, origin.folder / BRIDGE)
    return params


def _run_bridge(cfg: Config, origin: Origin) -> Any:
    with Checkpoints(origin.folder) as checkpoints:

        def load(step: int) -> Any:
            found = checkpoints.config(step)
            shapes = jax.eval_shape(lambda: new_bridge(found))
            _require_same_bridge(cfg, shapes, origin.folder)
            return checkpoints.item(step, "bridge", placed(shapes, None))

        return checkpoints.latest_valid(load) if origin.step is None else load(origin.step)


def _require_same_bridge(cfg: Config, params: Any, folder: Path) -> None:
    if cfg.bridge.kind != "full":
        return
    wanted = jax.eval_shape(lambda: new_bridge(cfg))["shifts"]
    sizes, own = ([tuple(shift.shape) for shift in shifts.values()] for shifts in (wanted, params["shifts"]))
    require(
        sizes == own,
        field="data.side",
        value=cfg.data.side,
        rule=f"the bridge in {folder} has shifts of {own}, but these stages need {sizes}",
        remedy=f"Set {own[-1][0] * cfg.autoencoder.downscale}, or bridge.kind = None and sample.transition = 'renoise'",
    )
