"""What a host finds out before a run, and how the findings of all hosts become one table."""

import dataclasses
import hashlib
import json
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from jax.experimental import multihost_utils

from nami_jax.config import ConfigError
from nami_jax.data.corruption import CorruptDataError
from nami_jax.weights import WeightsError

MANY = 16  # more facts than this are shown as a digest
STATUSES = OK, WARNING, FAILED = ("ok", "warning", "FAILED")  # from good to bad


class Finding(NamedTuple):
    """The outcome of one check on one host."""

    check: str
    status: str  # one of STATUSES
    text: str  # what was found and, unless that is ok, what to do about it
    cost: float = 0.0  # among hosts that are all well the one with the largest is shown

    @property
    def rank(self) -> tuple[int, float]:
        """Orders findings of one check, the worst last."""
        return STATUSES.index(self.status), self.cost


@dataclasses.dataclass
class Report:
    """What one host found. `facts` are what must be the same on all hosts: check -> name -> value."""

    host: str = dataclasses.field(default_factory=lambda: f"{socket.gethostname()} (process {jax.process_index()})")
    findings: list[Finding] = dataclasses.field(default_factory=list)
    facts: dict[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)

    def attempt(self, check: str, look: Callable[[], Finding | str]) -> bool:
        """Adds what `look` finds: a text if all is well; an error that a run would end with as FAILED.

        Returns:
            Whether the check did not fail.
        """
        try:
            found = look()
            finding = found if isinstance(found, Finding) else Finding(check, OK, found)
        except (ConfigError, CorruptDataError, ModuleNotFoundError, OSError, WeightsError) as error:
            finding = Finding(check, FAILED, str(error))
        self.findings.append(finding)
        return finding.status != FAILED

    def to_bytes(self) -> bytes:
        """Returns what `from_bytes` reads."""
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Reads another host's report."""
        fields: dict[str, Any] = json.loads(content)
        return cls(fields["host"], [Finding(*finding) for finding in fields["findings"]], fields["facts"])


def gather(report: Report) -> list[Report]:
    """Returns the reports of all processes, by process, on each of them."""
    content = np.frombuffer(report.to_bytes(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(content.size)).reshape(-1)
    padded = np.pad(content, (0, sizes.max() - content.size))
    rows = multihost_utils.process_allgather(padded).reshape(len(sizes), -1)
    return [Report.from_bytes(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def compare(reports: Sequence[Report]) -> list[Finding]:
    """Compares each host's facts with those of process 0; one finding for each kind of facts."""
    findings = []
    for check, reference in reports[0].facts.items():
        different = [
            f"{name} = {_short(facts.get(name))} on {report.host}, {_short(reference.get(name))} on {reports[0].host}"
            for report in reports[1:]
            if (facts := report.facts.get(check))  # a host that could not look says so itself
            for name in sorted({*reference, *facts})
            if facts.get(name) != reference.get(name)
        ]
        if different:
            text = f"{'; '.join(different)}. Give every host the same code, packages, config and flags."
            findings.append(Finding(check, FAILED, text))
        else:
            text = _summary(reference)
            findings.append(Finding(check, OK, text if len(reports) == 1 else f"the same on all hosts: {text}"))
    return findings


def _summary(facts: Mapping[str, str]) -> str:
    """Lists facts or, if they are many, gives a digest of them."""
    if len(facts) <= MANY:
        return ", ".join(f"{name} {_short(value)}" for name, value in facts.items() if value)
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    return f"digest {digest} of {len(facts)} fields"


def _short(value: str | None) -> str:
    return "none" if value is None else value if len(value) <= 80 else f"{value[:77]}..."


def summary_lines(reports: Sequence[Report]) -> list[Finding]:
    """Returns the lines to show: one a check where all is well, else one for each text of those that are worst off."""
    lines = compare(reports)
    for check in dict.fromkeys(finding.check for report in reports for finding in report.findings):
        found = [(finding, report.host) for report in reports for finding in report.findings if finding.check == check]
        worst = max((finding for finding, _ in found), key=lambda finding: finding.rank)
        if worst.status == OK:
            lines.append(worst)
            continue
        hosts: dict[str, list[str]] = {}
        for finding, host in found:
            if finding.status == worst.status:
                hosts.setdefault(finding.text, []).append(host)
        for text, those in hosts.items():
            where = (
                "" if len(reports) == 1 else "all hosts: " if len(those) == len(reports) else f"{', '.join(those)}: "
            )
            lines.append(Finding(check, worst.status, where + text))
    return lines
