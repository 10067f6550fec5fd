"""The measurements: the candidates stand beside each other, connected, and take turns.

Called by run.py and compare.py. All are idle but the one whose turn it is, so what else happens on the machine
meets each alike.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.candidates import PLAIN_FASTAPI, Candidate, Server
from benchmarks.generator import Generator, generator
from benchmarks.plan import Cores, Plan
from benchmarks.samples import Kind, Sample, Setting

PACED_PER_SECOND = 10.0
AT_ONCE = (1, 20)
"""How many events are published in one go."""
WARM_UP_CONNECTIONS = 200
WARM_UP_AT_ONCE = 100
"""As many as are opened at once afterwards: what the server makes once for such a crowd (threads, database
connections) is there before its memory is read."""
SETTLE_SECONDS = 1.0
"""What a server may still have to do after the last connection came, before its memory is read."""

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Stand:
    """A candidate that runs, and the generator that is connected to it."""

    candidate: Candidate
    server: Server
    load: Generator


def _set_up(stack: ExitStack, candidates: Sequence[Candidate], most: int, folder: Path, cores: Cores) -> list[_Stand]:
    stands = []
    for candidate in candidates:
        server = stack.enter_context(candidate.running(folder / candidate.name, cores.server))
        stands.append(_Stand(candidate, server, stack.enter_context(generator(server, most, cores.generator))))
    return stands


def deliveries(plan: Plan, candidates: Sequence[Candidate], folder: Path, cores: Cores, tell: Tell) -> list[Sample]:
    """Measure events of all sizes, published one by one, 20 at once, and 10 a second."""
    samples: list[Sample] = []
    for number in range(plan.passes):
        for size in plan.sizes:
            tell(f"pass {number + 1} of {plan.passes}: {size} connections")
            with ExitStack() as stack:
                stands = _set_up(stack, candidates, size, folder / f"{number}-{size}", cores)
                for stand in stands:
                    stand.load.open(size)
                    stand.load.burst(AT_ONCE[-1], min(0.5, plan.seconds))  # warm: nothing is done for the first time
                for turn in range(plan.rounds):
                    samples += _bursts(plan, stands, size, number * plan.rounds + turn)
                samples += _paced(plan, stands, size, number)
    return samples


def _bursts(plan: Plan, stands: Sequence[_Stand], size: int, round_number: int) -> list[Sample]:
    return [
        Sample(
            stand.candidate.name,
            Setting(Kind.BURST, size, events),
            round_number,
            stand.load.burst(events, plan.seconds),
        )
        for events in AT_ONCE
        # Whoever came first comes last in the next round.
        for stand in (stands if round_number % 2 == 0 else list(reversed(stands)))
    ]


def _paced(plan: Plan, stands: Sequence[_Stand], size: int, round_number: int) -> list[Sample]:
    return [
        Sample(
            stand.candidate.name,
            Setting(Kind.PACED, size),
            round_number,
            stand.load.paced(PACED_PER_SECOND, plan.paced_seconds),
        )
        for stand in stands
    ]


def connections(plan: Plan, candidates: Sequence[Candidate], folder: Path, cores: Cores, tell: Tell) -> list[Sample]:
    """Measure the memory of idle connections, and connects, beside FastAPI that only accepts."""
    samples: list[Sample] = []
    beside = [*candidates, PLAIN_FASTAPI]
    tell(f"memory of {plan.idle} idle connections")
    with ExitStack() as stack:
        stands = _set_up(stack, beside, max(plan.idle, WARM_UP_CONNECTIONS), folder / "connections", cores)
        for stand in stands:
            samples.append(_memory(stand, plan.idle))
        for turn in range(plan.churn_rounds):
            tell(f"round {turn + 1} of {plan.churn_rounds}: {plan.churn} connects")
            for stand in stands if turn % 2 == 0 else reversed(stands):
                setting = Setting(Kind.CHURN, 0)
                answer = stand.load.churn(plan.churn)
                samples.append(Sample(stand.candidate.name, setting, turn, answer, plan.churn))
    return samples


def _memory(stand: _Stand, count: int) -> Sample:
    """Return how much the process grew by idle connections, each."""
    stand.load.churn(WARM_UP_CONNECTIONS, WARM_UP_AT_ONCE)
    before = stand.server.child.resident_kib()
    stand.load.open(count)
    time.sleep(SETTLE_SECONDS)
    grown = stand.server.child.resident_kib() - before
    stand.load.close()
    return Sample(stand.candidate.name, Setting(Kind.IDLE, count), 0, count=count, kib=grown / count)
