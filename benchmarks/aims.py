"""What is to be reached, and whether it was: each figure with the bar it must pass and the aim beyond it."""

from dataclasses import dataclass

from benchmarks.candidates import AWAIT_SEND, FLOOR, PLAIN_FASTAPI, UVLOOP_TCP
from benchmarks.samples import Kind, Samples, Setting

SIZE = 1000
"""The number of connections that the aims are about."""


@dataclass(frozen=True, slots=True)
class Aim:
    """One row: `value` is None where it was not measured; `bar` None where there is only an aim."""

    key: str
    figure: str
    beside: str
    value: float | None
    bar: float | None
    aim: float
    unit: str = "×"
    is_limit: bool = False
    """The value must be at most, not at least, the bar."""

    def holds(self, border: float | None) -> bool | None:
        """Tell whether the value is on the right side; None where there is no value or no border."""
        if self.value is None or border is None:
            return None
        return self.value <= border if self.is_limit else self.value >= border

    @property
    def is_missed(self) -> bool:
        """Tell whether the bar, or the aim where there is no bar, was measured and not passed."""
        return self.holds(self.aim if self.bar is None else self.bar) is False


def size_of(samples: Samples) -> int:
    """Return the size that stands for `SIZE`: that, or the largest below it that was measured."""
    sizes = [setting.connections for setting in samples.settings(Kind.BURST)]
    return max((size for size in sizes if size <= SIZE), default=SIZE)


def aims(samples: Samples, ours: str) -> list[Aim]:
    """Return the rows for one candidate."""
    size = size_of(samples)
    single, due, paced = Setting(Kind.BURST, size), Setting(Kind.BURST, size, 20), Setting(Kind.PACED, size)
    churn = Setting(Kind.CHURN, 0)
    idle = next(iter(samples.settings(Kind.IDLE)), Setting(Kind.IDLE, 0))
    user = samples.microseconds(ours, single)
    at, floor = f", N = {size}", FLOOR.title
    own_p99, other_p99 = samples.latency(ours, paced), samples.latency(UVLOOP_TCP.name, paced)
    p99 = own_p99[1] / other_p99[1] if own_p99 and other_p99 and other_p99[1] else None
    return [
        Aim("single", f"single events{at}", floor, samples.ratio(ours, single, FLOOR.name), 0.7, 0.75),
        Aim("due", f"20 events due at once{at}", floor, samples.ratio(ours, due, FLOOR.name, single), 8.0, 10.0),
        Aim("single", f"user CPU per delivery, single events{at}", "–", user and user[0], None, 2.0, "µs", True),
        Aim("idle", "memory of an idle connection", "–", samples.median(ours, idle), 26.0, 24.0, "KiB", True),
        Aim(
            "churn",
            "authenticated connects",
            PLAIN_FASTAPI.title,
            samples.ratio(ours, churn, PLAIN_FASTAPI.name),
            0.8,
            1.0,
        ),
        Aim("single", f"single events{at}", UVLOOP_TCP.title, samples.ratio(ours, single, UVLOOP_TCP.name), None, 0.9),
        Aim("single", f"single events{at}", AWAIT_SEND.title, samples.ratio(ours, single, AWAIT_SEND.name), None, 1.9),
        Aim("paced", f"p99 of 10 events a second{at}", UVLOOP_TCP.title, p99, None, 1.2, "×", True),
    ]
