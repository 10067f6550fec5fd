"""How much is measured: the three lengths of `make bench`, and the cores and descriptors that there are for it."""

import os
import resource
from dataclasses import dataclass, replace

from benchmarks.candidates import AWAIT_SEND, FLOOR, OURS, UVLOOP_TCP, Candidate

SPARE_DESCRIPTORS = 200
"""What a server has open besides its connections, amply."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    name: str
    candidates: tuple[Candidate, ...]
    sizes: tuple[int, ...]
    passes: int
    """How often every size is measured with processes started anew."""
    rounds: int
    """How often the candidates take turns within a pass."""
    seconds: float
    """Length of one turn."""
    paced_seconds: float
    idle: int
    """Connections whose memory is measured."""
    churn: int
    """Connections opened and closed in one turn."""
    churn_rounds: int


QUICK = Plan("quick", (FLOOR, OURS), (100, 1000, 5000), 2, 3, 1.5, 4.0, 2000, 1000, 5)
USUAL = Plan("usual", (FLOOR, OURS, UVLOOP_TCP, AWAIT_SEND), (1000,), 3, 5, 2.0, 10.0, 5000, 2000, 7)
FULL = Plan("full", (FLOOR, OURS, UVLOOP_TCP, AWAIT_SEND), (100, 1000, 5000), 5, 5, 3.0, 20.0, 5000, 2000, 9)
SMALL = Plan("small", (FLOOR, OURS), (10,), 1, 1, 0.05, 0.2, 10, 10, 1)
"""Not for figures: shows that everything works."""

PLANS = {plan.name: plan for plan in (QUICK, USUAL, FULL, SMALL)}


@dataclass(frozen=True, slots=True)
class Cores:
    """The core of the server and that of the generator; None where they share what there is."""

    server: int | None
    generator: int | None

    def __str__(self) -> str:
        if self.server is None:
            return "server and generator share one core: compare figures of this run only"
        return f"server on core {self.server}, generator on core {self.generator}"


def cores() -> Cores:
    """Return two different cores of those that this process may use."""
    usable = sorted(os.sched_getaffinity(0))
    return Cores(usable[0], usable[1]) if len(usable) > 1 else Cores(None, None)


def within_descriptors(plan: Plan) -> tuple[Plan, str | None]:
    """Raise this process's limit of open files, which its children inherit, as far as the plan needs it.

    Returns the plan, made smaller where the limit cannot be raised so far, and then the reason as well.
    """
    needed = max(*plan.sizes, plan.idle) + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        soft = allowed
    if soft >= needed:
        return plan, None
    most = soft - SPARE_DESCRIPTORS
    smaller = replace(
        plan, sizes=tuple(dict.fromkeys(min(size, most) for size in plan.sizes)), idle=min(plan.idle, most)
    )
    return smaller, f"at most {most} connections instead of {needed - SPARE_DESCRIPTORS}: `ulimit -Hn` is {hard}"
