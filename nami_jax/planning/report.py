"""A plan as text: tables of memory, FLOPs, collectives, time and money, and what to change if it does not fit."""

from collections.abc import Iterator, Mapping

from nami_jax.monitoring.chips import TERA
from nami_jax.parallel.sharding import batch_parts
from nami_jax.planning.batches import with_batch
from nami_jax.planning.bounds import bounds_text, operations_text
from nami_jax.planning.costs import Rate, phases, picture_flops, shape_flops
from nami_jax.planning.gpu_targets import SHARE, USUAL_SHARE
from nami_jax.planning.hlo import Collectives
from nami_jax.planning.memory import Measured
from nami_jax.planning.planner import Plan
from nami_jax.planning.remedies import remedies
from nami_jax.planning.tables import gib, table, tera
from nami_jax.planning.xla_flops import sampling_xla_flops, training_xla_flops
from nami_jax.sampling.sampler import make_sampler
from nami_jax.training.compilation import shapes_text

MIB = 2**20


def report(plan: Plan, rate: Rate | None, mfu: float) -> str:
    """Returns the whole plan.

    Args:
        plan: what was found out.
        rate: what the devices are assumed to do and cost; None: not known.
        mfu: the utilisation that `rate` assumes, to be named.
    """
    sections = [
        _heading(plan),
        _memory(plan),
        _batch(plan),
        _flops(plan),
        _traffic(plan),
        _attention(plan),
        _costs(plan, rate, mfu),
        *_bounds(plan),
        _pictures(plan, rate),
        _programs(plan),
        _verdict(plan),
    ]
    return "\n\n".join(sections)


def _heading(plan: Plan) -> str:
    devices, axes = plan.hardware.devices, " x ".join(f"{name} {size}" for name, size in plan.mesh.shape.items())
    first = f"{plan.hardware.name}: {len(devices)} devices ({devices[0].device_kind}), arranged as {axes}"
    total, limit = plan.hardware.memory_total, plan.hardware.memory_limit
    if total is None:
        return first
    usual = f"{SHARE}; {USUAL_SHARE} where that is not set"
    return f"{first}\nOf the {gib(total)} GiB of each, jax takes {limit / total:g} ({usual})."


def _memory(plan: Plan) -> str:
    step = plan.steps[plan.costliest]
    assert step is not None
    title = f"Training step on images of {shapes_text(plan.costliest)}, " + (
        f"the costliest in FLOPs of {len(plan.steps)} shapes" if len(plan.steps) > 1 else "the only shape"
    )
    done = "" if step.seconds == 0 else f"; compiled in {step.seconds:.0f} s"
    rows = _memory_rows(step.parts, step)
    others = [(shapes_text(shapes), _total(found)) for shapes, found in list(plan.steps.items())[1:] if found]
    more = [table(("other shapes of the training step", "GiB"), others)] if others else []
    return "\n\n".join([f"{title}{done}.", table(("memory of each device", "GiB"), rows), *more])


def _memory_rows(parts: Mapping[str, int], measured: Measured) -> list[tuple[str, str]]:
    rows = [(kind, gib(size)) for kind, size in parts.items()]
    rows += [("sum", _total(measured)), ("limit", gib(measured.limit))]
    return rows + ([("free", gib(measured.limit - measured.total))] if measured.fits else [])


def _total(measured: Measured) -> str:
    return ("" if measured.collectives else "at least ") + gib(measured.total)


def _batch(plan: Plan) -> str:
    if plan.largest is None:
        return "Largest batch: unknown, since memory does not grow with the batch at this size."
    if plan.largest.units == 0:
        return f"Largest batch: not even {plan.unit} images fit ({plan.largest.basis})."
    count = tuple(plan.largest.units * count for count in plan.unit)
    times = count[0] / plan.costliest[0][0]
    return (
        f"Largest batch in these ratios: {count} images, {times:.2f} times the configured one ({plan.largest.basis}; "
        f"a unit is {plan.unit} images)."
    )


def _flops(plan: Plan) -> str:
    counts = shape_flops(plan.cfg, plan.costliest)
    xla, devices = training_xla_flops(plan.cfg, plan.costliest), len(plan.hardware.devices)
    rows = [(f"stage {k}", tera(count)) for k, count in enumerate(counts, start=1)]
    rows += [
        ("all stages", tera(sum(counts))),
        ("on each device", tera(sum(counts) / devices)),
        ("as XLA counts", tera(xla)),
    ]
    extra = ", and what rematerialisation recomputes" if plan.cfg.model.remat != "none" else ""
    return (
        table(("FLOPs of this step", "TFLOP"), rows)
        + f"\nXLA's count, {xla / sum(counts):.3f} times the sum, is for the same step with its blocks unrolled (it"
        f"\ncounts a loop's body once). It also includes element-wise arithmetic{extra}."
    )


def _traffic(plan: Plan) -> str:
    step = plan.steps[plan.costliest]
    found = step.collectives if step else None
    if found is None:
        return "Collectives: unknown for a program that does not fit."
    if not found.traffic:
        return "Collectives: none."
    rows = [(kind, str(t.count), f"{t.bytes / MIB:.1f}") for kind, t in found.traffic.items()]
    return (
        table(("collectives of this step, each device", "count", "MiB"), rows)
        + "\nBytes are the larger of input and output; collectives inside a loop count once per iteration."
        + _uncounted(found)
    )


def _attention(plan: Plan) -> str:
    programs = dict(zip(_program_names(plan), [plan.steps[plan.costliest], *plan.stages], strict=True))
    rows = []
    for name, measured in programs.items():
        found = measured.attention if measured else None
        if found is None:
            rows.append((name, "unknown", "-", "-"))
        else:
            calls = str(sum(found.calls.values())) if found.calls else "-"
            rows.append((name, " and ".join(found.calls) or "XLA's own", calls, " ".join(found.weights) or "none"))
    return table(("attention", "kernel", "calls in the program", "weights in memory"), rows)


def _uncounted(found: Collectives) -> str:
    return f"\n{found.uncounted_loops} loops of unknown length count once." if found.uncounted_loops else ""


def _costs(plan: Plan, rate: Rate | None, mfu: float) -> str:
    if rate is None:
        return f"Time and cost: the peak rate of {plan.hardware.devices[0].device_kind!r} is not in the table of chips."
    rows, seconds, images = [], 0.0, 0
    for number, phase in enumerate(phases(plan.cfg), start=1):
        step = phase.flops / rate.flops
        seconds, images = seconds + phase.steps * step, images + phase.steps * phase.images
        rows.append(
            (
                f"phase {number}",
                str(phase.steps),
                str(phase.images),
                f"{phase.flops / TERA:.4g}",
                f"{step:.4g}",
                f"{phase.images / step:.1f}",
                f"{rate.dollars(step) / phase.images * 1e6:.0f}",
            )
        )
    header = ("", "steps", "images/step", "TFLOP/step", "s/step", "images/s", "USD/million images")
    assumed = (
        f"Assuming an MFU of {mfu:g}, and {rate.price / len(plan.hardware.devices):.2f} USD per chip and hour "
        f"({rate.price:.2f} for all):"
    )
    whole = (
        f"The run: {images / 1e6:.1f} million images of all stages, {seconds / 3600:.1f} hours, "
        f"{seconds / 3600 * len(plan.hardware.devices):.0f} chip hours, {rate.dollars(seconds):.0f} USD, "
        f"{rate.dollars(seconds) / images * 1e6:.0f} USD per million images."
    )
    return f"{assumed}\n\n{table(header, rows)}\n{whole}"


def _bounds(plan: Plan) -> Iterator[str]:
    """Says what the programs take at the least, for chips whose rates are known."""
    chip, step, cfg = plan.hardware.chip, plan.steps[plan.costliest], plan.cfg
    if chip is None or step is None or step.bound is None:
        return
    programs = dict(zip(_program_names(plan), [step, *plan.stages], strict=True))
    yield bounds_text(programs, chip)
    names = list(programs)
    yield "\n\n".join(operations_text(name, programs[name], chip) for name in dict.fromkeys((names[0], names[-1])))
    most = sum(shape_flops(cfg, plan.costliest)) / len(plan.hardware.devices) / chip.peak_flops / step.bound.seconds
    yield f"So this step's MFU is at most {most:.2f}; where one is assumed above, it is just that."


def _program_names(plan: Plan) -> list[str]:
    return ["step of training", *(f"stage {k} of pictures" for k in range(1, len(plan.stages) + 1))]


def _pictures(plan: Plan, rate: Rate | None) -> str:
    cfg, images, side = plan.cfg, plan.preview_images, plan.cfg.data.side
    latent_side = side // cfg.autoencoder.downscale
    ours = picture_flops(cfg, images)
    theirs = sampling_xla_flops(cfg.model, cfg.sample, latent_side, cfg.text.max_length, images)
    rows = [
        (
            f"stage {k}",
            tera(count),
            tera(xla),
            gib(stage.parts.get("temporaries", 0)),
            _total(stage),
            f"{count / rate.flops:.2f}" if rate else "-",
        )
        for k, (count, xla, stage) in enumerate(zip(ours, theirs, plan.stages, strict=True), start=1)
    ]
    header = ("", "TFLOP", "as XLA counts", "temporaries GiB", "with training state GiB", "s")
    return (
        f"Drawing {images} pictures of {side}x{side} at once, with guidance, in {cfg.sample.steps} steps, as the run "
        f"does to show its progress:\n\n{table(header, rows)}"
    )


def _programs(plan: Plan) -> str:
    cfg, side = plan.cfg, plan.cfg.data.side // plan.cfg.autoencoder.downscale
    validation = dict.fromkeys(with_batch(shapes, [cfg.train.eval_batch] * len(shapes)) for shapes in plan.steps)
    drawn = [(plan.preview_images, *shape) for shape in make_sampler(cfg.model).shapes(side, side)]
    rows = [("training step", shapes_text(shapes)) for shapes in plan.steps]
    rows += [("validation", shapes_text(shapes)) for shapes in validation]
    rows += [(f"pictures, stage {k}", shapes_text((shape,))) for k, shape in enumerate(drawn, start=1)]
    return "\n".join(["Programs that the run compiles, and their images:", *(f"{a:<17}  {b}" for a, b in rows)])


def _verdict(plan: Plan) -> str:
    if plan.fits:
        return "It fits."
    return "\n".join(_misfits(plan))


def _misfits(plan: Plan) -> Iterator[str]:
    for shapes, step in plan.steps.items():
        if step and not step.fits:
            yield f"It does not fit: a training step on {shapes_text(shapes)} needs {_over(step)}. Cheapest first:"
            largest = plan.largest.units if plan.largest and shapes == plan.costliest else 0
            stage_batch = [shape[0] for shape in shapes]
            fitting = [largest * count for count in plan.unit]
            found = remedies(plan.cfg, plan.hardware, stage_batch, step, fitting if largest else None)
            yield from (f"- {remedy}" for remedy in found)
    for k, stage in enumerate(plan.stages, start=1):
        if not stage.fits:
            fewer = ", or lower train.sample_images" if plan.preview_images > batch_parts(plan.mesh) else ""
            yield (
                f"It does not fit: drawing {plan.preview_images} pictures beside the training state needs "
                f"{_over(stage)} in stage {k}. Raise mesh.fsdp{fewer}."
            )


def _over(measured: Measured) -> str:
    """Returns "at least 17.1 GiB of each device's 15.8, 1.3 too much"."""
    over = f"{_total(measured)} GiB of each device's {gib(measured.limit)}"
    return f"{over}, {gib(measured.total - measured.limit)} too much"
