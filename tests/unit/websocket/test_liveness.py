"""The rules that tell a slow client from a dead one, on a clock by hand."""

from backend.app.websocket.liveness import Liveness, LivenessRules, Verdict

RULES = LivenessRules(heartbeat=20, pong_timeout=10, write_stall=30, write_stall_max=120)


class Client:
    """What the heartbeat would see of a client."""

    def __init__(self) -> None:
        self.liveness = Liveness(RULES, 0.0)
        self.taken = 0
        self.waiting = 0
        self.received_at = 0.0

    def look(self, now: float) -> Verdict:
        return self.liveness.look(now, taken_bytes=self.taken, waiting_bytes=self.waiting, received_at=self.received_at)

    def looks(self, begin: int, end: int) -> list[tuple[int, Verdict]]:
        """Look every second; return what was not fine."""
        seen = [(second, self.look(float(second))) for second in range(begin, end)]
        return [(second, verdict) for second, verdict in seen if verdict is not Verdict.FINE]


def test_a_ping_every_20_seconds_while_the_client_answers() -> None:
    """RFC 6455 ping every 20 s, 10 s for the pong."""
    client = Client()
    seen = []
    for second in range(1, 100):
        verdict = client.look(float(second))
        if verdict is Verdict.PING:
            seen.append(second)
            client.received_at = second + 0.5
        assert verdict in (Verdict.PING, Verdict.FINE)
    assert seen == [20, 40, 60, 80]


def test_no_answer_within_10_seconds_is_no_pong() -> None:
    """4012: no pong."""
    client = Client()
    assert client.looks(1, 31) == [(20, Verdict.PING), (30, Verdict.NO_PONG)]


def test_anything_that_the_client_sends_answers_the_ping() -> None:
    """Slow is not mistaken for dead: a client's own ping or message is a sign of life."""
    client = Client()
    assert client.looks(1, 25) == [(20, Verdict.PING)]
    client.received_at = 24.5
    assert client.looks(25, 40) == []


def test_while_bytes_wait_the_write_stall_judges_instead_of_the_pong() -> None:
    """While bytes for that client are queued, the ping waits behind the data."""
    client = Client()
    assert client.looks(1, 22) == [(20, Verdict.PING)]
    client.waiting = 1000
    # It takes a little every 20 s and sends nothing: no pong could have come.
    seen = []
    for second in range(22, 200):
        if second % 20 == 0:
            client.taken += 10
        verdict = client.look(float(second))
        seen += [] if verdict is Verdict.FINE else [verdict]
    assert seen == []


def test_a_socket_that_takes_nothing_and_says_nothing_is_stalled_after_30_seconds() -> None:
    """Dead when for write_stall_seconds its socket took no byte and nothing came from it."""
    client = Client()
    client.look(1.0)
    client.waiting = 1000
    assert client.looks(2, 32) == [(31, Verdict.STALLED)]


def test_a_client_that_takes_nothing_but_talks_is_stalled_after_120_seconds() -> None:
    """Or after 120 s without a byte taken either way."""
    client = Client()
    client.look(1.0)
    client.waiting = 1000
    seen = []
    for second in range(2, 130):
        client.received_at = float(second)
        verdict = client.look(float(second))
        seen += [] if verdict is Verdict.FINE else [(second, verdict)]
    assert seen[0] == (121, Verdict.STALLED)


def test_new_bytes_do_not_hide_that_none_is_taken() -> None:
    """What is written meanwhile makes more wait; only what the socket took is progress."""
    client = Client()
    client.look(1.0)
    for second in range(2, 31):
        client.waiting += 100
        assert client.look(float(second)) is Verdict.FINE
    assert client.look(31.0) is Verdict.STALLED


def test_when_the_client_has_taken_everything_it_is_pinged_and_its_time_begins() -> None:
    """The time for the answer begins when nothing waits before the ping any more."""
    client = Client()
    client.waiting = 1000
    client.look(1.0)
    client.taken, client.waiting = 1000, 0
    assert client.look(29.0) is Verdict.PING
    assert client.looks(30, 40) == [(39, Verdict.NO_PONG)]


def test_a_time_in_which_the_process_stood_still_is_left_out() -> None:
    """A process stopped for 60 s cuts nobody when it goes on."""
    client = Client()
    assert client.look(20.0) is Verdict.PING
    client.liveness.forgive(60.0)
    assert client.look(81.0) is Verdict.FINE
    assert client.look(90.0) is Verdict.NO_PONG
