"""The circuit breaker's states, with a clock of the test's own."""

import random

import pytest

from backend.app.websocket.circuit_breaker import BreakerState, CircuitBreaker


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class World:
    """A breaker of three failures and ten seconds, and what it told."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.told: list[BreakerState] = []
        self.breaker = CircuitBreaker(3, 10, lambda state, _: self.told.append(state), self.clock)


@pytest.fixture
def world() -> World:
    return World()


def test_three_in_a_row_open_it_and_one_success_between_does_not(world: World) -> None:
    breaker = world.breaker
    for ends_well in (False, False, True, False, False):
        assert breaker.admit()
        breaker.succeeded() if ends_well else breaker.failed("broken")
    assert (breaker.state, breaker.reason) == (BreakerState.CLOSED, None)
    breaker.failed("broken")
    assert (breaker.state, breaker.reason) == (BreakerState.OPEN, "3 failures in a row; the last: broken")
    assert world.told == [BreakerState.OPEN]


def test_open_it_admits_nobody_until_its_time_is_over_and_then_one(world: World) -> None:
    breaker, clock = world.breaker, world.clock
    breaker.trip("blocked the loop")
    clock.now = 9.9
    assert not breaker.admit()
    assert breaker.retry_after_seconds == pytest.approx(0.1)
    clock.now = 10
    assert [breaker.admit(), breaker.admit()] == [True, False]
    assert breaker.state is BreakerState.HALF_OPEN


@pytest.mark.parametrize("ends_well", [True, False])
def test_the_probe_decides(world: World, ends_well: bool) -> None:
    breaker, clock = world.breaker, world.clock
    breaker.trip("blocked the loop")
    clock.now = 10
    assert breaker.admit()
    breaker.succeeded() if ends_well else breaker.failed("again")
    assert breaker.state is (BreakerState.CLOSED if ends_well else BreakerState.OPEN)
    assert breaker.admit() is ends_well
    clock.now = 20
    assert breaker.admit()  # A failed probe is followed by another one after the whole time.


def test_an_end_that_comes_late_does_not_close_it(world: World) -> None:
    """What began before it opened and ends well while it is open says nothing of what comes."""
    breaker = world.breaker
    assert breaker.admit()
    breaker.trip("blocked the loop")
    breaker.succeeded()
    assert breaker.state is BreakerState.OPEN


def test_a_reset_closes_it_and_forgets(world: World) -> None:
    breaker = world.breaker
    breaker.failed("broken")
    breaker.failed("broken")
    breaker.reset()
    breaker.failed("broken")
    assert breaker.state is BreakerState.CLOSED
    assert world.told == []
    breaker.trip("blocked the loop")
    breaker.reset()
    assert breaker.admit()
    assert world.told == [BreakerState.OPEN, BreakerState.CLOSED]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_it_is_never_stuck(seed: int) -> None:
    """After any history somebody is admitted once its time is over, and never two at once while it is half open."""
    world, dice = World(), random.Random(seed)
    breaker, clock, running = world.breaker, world.clock, 0
    for _ in range(300):
        clock.now += dice.choice((0, 0.5, 4))
        was = breaker.state
        if breaker.admit():
            running += 1
            assert was is not BreakerState.HALF_OPEN or breaker.state is BreakerState.HALF_OPEN
        if running and dice.random() < 0.7:
            running -= 1
            dice.choice((breaker.succeeded, lambda: breaker.failed("broken"), breaker.gave_up))()
    for _ in range(running):
        breaker.gave_up()
    clock.now += 10
    assert breaker.admit()
