"""What was measured, as plain values: one sample for each command of the generator, and figures made of them.

Made by measure.py, read by report.py and compare.py, kept as JSON. Invariant: a ratio is the median of ratios
between neighbours of one round; figures of different rounds are never divided by each other.
"""

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from benchmarks.generator import Answer


class Kind(StrEnum):
    """What was done."""

    BURST = "burst"
    PACED = "paced"
    CHURN = "churn"
    IDLE = "idle"


@dataclass(frozen=True, slots=True)
class Setting:
    """What was done, and with how many: everything but the candidate."""

    kind: Kind
    connections: int
    events: int = 1
    """How many are published at once."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of one candidate."""

    candidate: str
    setting: Setting
    round: int
    """Samples of one round were taken right after one another."""
    answer: Answer | None = None
    count: int = 0
    """How many connections a CHURN opened and closed, or were IDLE."""
    kib: float = 0.0
    """Memory of one idle connection."""

    @property
    def rate(self) -> float:
        """Deliveries or connects per second of the server's CPU time; for IDLE, KiB per connection."""
        if self.answer is None:
            return self.kib
        done = self.count if self.setting.kind is Kind.CHURN else self.answer.events
        return done / self.answer.cpu_seconds

    def as_json(self) -> dict[str, Any]:
        """Return it for a file."""
        return {**asdict(self), "rate": self.rate}


class Samples:
    """All samples of one run."""

    def __init__(self, samples: Iterable[Sample] = ()) -> None:
        self.all = list(samples)

    def of(self, candidate: str, setting: Setting) -> list[Sample]:
        """Return the samples of one candidate in one setting, in order."""
        return [sample for sample in self.all if sample.candidate == candidate and sample.setting == setting]

    def settings(self, kind: Kind) -> list[Setting]:
        """Return the settings of a kind that were measured, in order."""
        return list(dict.fromkeys(sample.setting for sample in self.all if sample.setting.kind is kind))

    def candidates(self) -> list[str]:
        """Return the names of the candidates, in order."""
        return list(dict.fromkeys(sample.candidate for sample in self.all))

    def median(self, candidate: str, setting: Setting) -> float | None:
        """Return the median rate; None where it was not measured."""
        rates = [sample.rate for sample in self.of(candidate, setting)]
        return statistics.median(rates) if rates else None

    def ratio(self, candidate: str, setting: Setting, against: str, beside: Setting | None = None) -> float | None:
        """Return the median, over the rounds, of one candidate's rate divided by another's in the same round."""
        others = {sample.round: sample.rate for sample in self.of(against, beside or setting)}
        ratios = [
            sample.rate / others[sample.round] for sample in self.of(candidate, setting) if others.get(sample.round)
        ]
        return statistics.median(ratios) if ratios else None

    def latency(self, candidate: str, setting: Setting) -> tuple[float, float] | None:
        """Return the medians of p50 and p99 (ms); None where nothing was measured."""
        answers = [sample.answer for sample in self.of(candidate, setting) if sample.answer]
        if not answers:
            return None
        return statistics.median(a.p50_ms for a in answers), statistics.median(a.p99_ms for a in answers)

    def microseconds(self, candidate: str, setting: Setting) -> tuple[float, float] | None:
        """Return the medians of user and system CPU time of the server for one delivery (µs)."""
        answers = [sample.answer for sample in self.of(candidate, setting) if sample.answer and sample.answer.events]
        if not answers:
            return None
        return (
            statistics.median(a.user_seconds / a.events * 1e6 for a in answers),
            statistics.median(a.system_seconds / a.events * 1e6 for a in answers),
        )
