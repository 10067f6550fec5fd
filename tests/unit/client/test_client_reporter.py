"""Delivering a command's output: soon, in order, once, and never at the command's expense."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from backend.app.client.backoff import Backoff
from backend.app.client.delivery import ReporterTimes
from backend.app.client.errors import ApiError, NotLoggedIn, ServerUnreachable
from backend.app.client.line_buffer import BufferLimits, LineBuffer
from backend.app.client.reporter import Reporter
from backend.app.client.runner_api import LogLine, RunnerApi

TIMES = ReporterTimes(flush=0.005, progress=0.01, heartbeat=0.05, hold=0.05, finish=2.0)
QUICK = Backoff(first_seconds=0.001, longest_seconds=0.005)
AWAY = ServerUnreachable("http://server", "connection refused")


class Server(RunnerApi):
    """The server's side of a deployment, in memory; `failures` are raised first."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.calls: list[str] = []
        self.statuses: list[tuple[str, str | None, int | None]] = []
        self.progress: list[dict[str, Any]] = []
        self.failures: list[Exception] = []
        self.closed: str | None = None
        self.is_cancelled = False
        self.is_away = False
        self.changed = asyncio.Condition()

    async def _act(self, name: str) -> None:
        async with self.changed:
            self.calls.append(name)
            self.changed.notify_all()
        if self.is_away:
            raise AWAY
        if self.failures:
            raise self.failures.pop(0)

    async def until(self, name: str, count: int = 1) -> None:
        async with asyncio.timeout(5), self.changed:
            await self.changed.wait_for(lambda: self.calls.count(name) >= count)

    async def append_lines(self, first_line: int, lines: Sequence[LogLine]) -> dict[str, Any]:
        await self._act("lines")
        if self.closed:
            raise ApiError("deployment_closed", "closed", status=409, details={"status": self.closed})
        next_line = len(self.lines) + 1
        if first_line > next_line:
            raise ApiError("log_gap", "gap", status=409, details={"nextLine": next_line})
        self.lines += [line.text for line in lines[next_line - first_line :]]
        return {"nextLine": len(self.lines) + 1, "cancelRequested": self.is_cancelled}

    async def set_progress(self, progress: dict[str, Any]) -> dict[str, Any]:
        await self._act("progress")
        self.progress.append(progress)
        return {"cancelRequested": self.is_cancelled}

    async def heartbeat(self) -> dict[str, Any]:
        await self._act("heartbeat")
        if self.closed:
            raise ApiError("deployment_closed", "closed", status=409)
        return {"cancelRequested": self.is_cancelled}

    async def set_status(self, status: str, reason: str | None = None, exit_code: int | None = None) -> dict[str, Any]:
        await self._act(f"status {status}")
        if self.closed == "runner lost":
            if status != "running":
                raise ApiError("invalid_transition", "no", status=409)
            self.closed = None
        elif self.closed:
            raise ApiError("invalid_transition", "no", status=409)
        self.statuses.append((status, reason, exit_code))
        return {}

    async def show(self) -> dict[str, Any]:
        await self._act("show")
        return {"status": self.closed}


def reporter(server: Server, **options: Any) -> Reporter:
    return Reporter(server, **{"times": TIMES, "backoff": QUICK, **options})


async def test_lines_and_the_end_arrive_in_order() -> None:
    """Lines in batches, in order, once; the final status after the last line."""
    server = Server()
    async with reporter(server) as reports:
        for number in range(2500):
            await reports.add(LogLine(f"{number}"))
        delivery = await reports.finish("success", None, 0)
    assert server.lines == [f"{number}" for number in range(2500)]
    assert server.statuses == [("success", None, 0)]
    assert server.calls[-1] == "status success"
    assert delivery.is_complete


async def test_a_line_is_sent_without_waiting_for_more() -> None:
    """A time-based flush: one line alone is on its way at once, while the command says nothing further."""
    server = Server()
    async with reporter(server) as reports:
        await reports.add(LogLine("alone"))
        await server.until("lines")
    assert server.lines == ["alone"]


async def test_lines_collect_while_a_request_is_under_way() -> None:
    """While a request is in flight lines collect: few requests for many lines."""
    server = Server()
    async with reporter(server) as reports:
        for number in range(500):
            await reports.add(LogLine(f"{number}"))
            await asyncio.sleep(0)
        await reports.finish("success", None, 0)
    assert len(server.lines) == 500
    assert server.calls.count("lines") < 100


async def test_a_server_that_is_away_gets_everything_later() -> None:
    """The command goes on while the server is away; what was kept is delivered, in order, once."""
    server, notices = Server(), list[str]()
    server.is_away = True
    async with reporter(server, notice=notices.append) as reports:
        for number in range(100):
            await reports.add(LogLine(f"{number}"))
        await server.until("lines", 3)
        server.is_away = False
        delivery = await reports.finish("failed", "exit status 3", 3)
    assert server.lines == [f"{number}" for number in range(100)]
    assert delivery.is_complete
    assert ["does not answer" in notices[0], "is back" in notices[1]] == [True, True]


async def test_an_answer_that_was_lost_makes_nothing_twice() -> None:
    """Idempotent by number: a report whose answer never came is sent again and stored once."""
    server = Server()
    stored = server.append_lines

    async def lose_first(first_line: int, lines: Sequence[LogLine]) -> dict[str, Any]:
        answer = await stored(first_line, lines)
        if server.calls.count("lines") == 1:
            raise ServerUnreachable("http://server", "connection reset")
        return answer

    server.append_lines = lose_first  # type: ignore[method-assign]
    async with reporter(server) as reports:
        for text in ("a", "b"):
            await reports.add(LogLine(text))
        delivery = await reports.finish("success", None, 0)
    assert server.lines == ["a", "b"]
    assert server.calls.count("lines") == 2
    assert delivery.is_complete


async def test_a_server_that_stays_away_does_not_hold_the_end_for_ever() -> None:
    """Keep trying for a bounded time, then say what was not delivered."""
    server = Server()
    server.is_away = True
    times = ReporterTimes(flush=0.005, finish=0.1)
    async with reporter(server, times=times) as reports:
        for number in range(10):
            await reports.add(LogLine(f"{number}"))
        delivery = await reports.finish("success", None, 0)
    assert delivery.undelivered_lines == 10
    assert not delivery.is_status_delivered
    assert delivery.reason == "connection refused"


async def test_a_full_buffer_holds_the_command_only_for_a_while() -> None:
    """Bounded buffer with back-pressure; a server that is away longer costs the oldest lines, counted."""
    server = Server()
    server.is_away = True
    limits = BufferLimits(lines=10, batch_lines=5)
    async with asyncio.timeout(10), reporter(server, lines=LineBuffer(limits)) as reports:
        for number in range(40):
            await reports.add(LogLine(f"{number}"))
        server.is_away = False
        delivery = await reports.finish("success", None, 0)
    assert server.lines[0] == "0"
    assert server.lines[-1] == "39"
    markers = [line for line in server.lines if "lines are missing" in line]
    assert len(markers) == 1
    assert delivery.undelivered_lines == int(markers[0].split()[1]) == 40 - (len(server.lines) - 1)


async def test_a_slow_server_slows_the_command_and_loses_nothing() -> None:
    """Back-pressure: a server that is slow but answers gets every line."""
    server = Server()
    stored = server.append_lines

    async def slowly(first_line: int, lines: Sequence[LogLine]) -> dict[str, Any]:
        await asyncio.sleep(0.005)
        return await stored(first_line, lines)

    server.append_lines = slowly  # type: ignore[method-assign]
    async with reporter(server, lines=LineBuffer(BufferLimits(lines=10, batch_lines=5))) as reports:
        for number in range(100):
            await reports.add(LogLine(f"{number}"))
        delivery = await reports.finish("success", None, 0)
    assert server.lines == [f"{number}" for number in range(100)]
    assert delivery.is_complete


async def test_a_gap_is_corrected() -> None:
    """409 log_gap {nextLine}: go on at the server's number."""
    server = Server()
    async with reporter(server) as reports:
        await reports.add(LogLine("a"))
        await server.until("lines")
        server.lines.clear()  # restored from a backup
        await reports.add(LogLine("b"))
        delivery = await reports.finish("success", None, 0)
    assert server.lines == ["b"]
    assert delivery.is_status_delivered


async def test_progress_is_sent_and_the_newest_wins() -> None:
    """Progress: the last value arrives; those that were overtaken need not."""
    server = Server()
    async with reporter(server) as reports:
        for percent in range(101):
            reports.set_progress({"progress": percent})
        await reports.finish("success", None, 0)
    assert server.progress[-1] == {"progress": 100}
    assert len(server.progress) < 10


async def test_silence_is_filled_with_heartbeats() -> None:
    """A heartbeat when nothing else was sent; its answer may ask to cancel."""
    server = Server()
    async with reporter(server) as reports:
        await server.until("heartbeat", 2)
        assert not reports.cancel_requested.is_set()
        server.is_cancelled = True
        async with asyncio.timeout(5):
            await reports.cancel_requested.wait()
        await reports.finish("cancelled", None, 143)


async def test_heartbeats_are_rarer_where_a_cancel_is_pushed() -> None:
    """The socket tells of a cancel; heartbeats ask often only as its fall-back."""
    times = ReporterTimes(heartbeat=5.0)
    pushed = Reporter(Server(), times=times, is_cancel_pushed=lambda: True)
    polled = Reporter(Server(), times=times)
    assert pushed._beat_seconds() == 5.0
    assert polled._beat_seconds() == 1.0


async def test_any_answer_may_ask_to_cancel() -> None:
    """Every answer to the runner says `cancelRequested`."""
    server = Server()
    server.is_cancelled = True
    async with reporter(server) as reports:
        await reports.add(LogLine("a"))
        async with asyncio.timeout(5):
            await reports.cancel_requested.wait()
        await reports.finish("cancelled", None, None)


async def test_a_lost_runner_takes_its_deployment_up_again() -> None:
    """`failed`, `runner lost` → `running` by the same runner, which then delivers its lines."""
    server, notices = Server(), list[str]()
    server.closed = "runner lost"
    async with reporter(server, notice=notices.append) as reports:
        await reports.add(LogLine("a"))
        delivery = await reports.finish("success", None, 0)
    assert server.lines == ["a"]
    assert [status for status, _, _ in server.statuses] == ["running", "success"]
    assert delivery.is_complete
    assert any("taken up again" in notice for notice in notices)


async def test_the_end_alone_can_take_a_lost_deployment_up() -> None:
    """A lost runner that has only its end to tell can tell it."""
    server = Server()
    async with reporter(server) as reports:
        server.closed = "runner lost"
        delivery = await reports.finish("failed", "exit status 1", 1)
    assert [status for status, _, _ in server.statuses] == ["running", "failed"]
    assert delivery.is_complete


async def test_a_deployment_cancelled_on_the_server_stops_the_command() -> None:
    """Cancelled while its lease had lapsed: the command is stopped, too."""
    server = Server()
    server.closed = "cancelled"
    async with reporter(server) as reports:
        async with asyncio.timeout(5):
            await reports.cancel_requested.wait()
        delivery = await reports.finish("cancelled", None, 143)
    assert delivery.reason is not None
    assert "ended on the server" in delivery.reason


@pytest.mark.parametrize(
    "refusal",
    [
        ApiError("not_found", "deployment not found", status=404),
        ApiError("lease_held", "another runner holds this deployment", status=409),
        ApiError("forbidden", "not allowed", status=403),
        NotLoggedIn("http://server", "your session ended"),
    ],
)
async def test_a_final_refusal_ends_reporting_not_the_command(refusal: Exception) -> None:
    """If reporting fails for good the command goes on, and at the end it is said what was not delivered."""
    server, notices = Server(), list[str]()
    server.failures = [refusal]
    async with reporter(server, notice=notices.append) as reports:
        for number in range(5):
            await reports.add(LogLine(f"{number}"))
        await server.until("lines")
        await asyncio.sleep(0)
        for number in range(5):
            await reports.add(LogLine(f"{number}"))
        started = time.monotonic()
        delivery = await reports.finish("success", None, 0)
    assert time.monotonic() - started < TIMES.finish
    assert delivery.undelivered_lines == 10
    assert not delivery.is_status_delivered
    assert "reporting stopped" in notices[-1]


async def test_a_line_the_server_does_not_take_is_replaced_by_a_marker() -> None:
    """One line that is refused must not hold up those after it."""
    server = Server()
    stored = server.append_lines

    async def picky(first_line: int, lines: Sequence[LogLine]) -> dict[str, Any]:
        if any("bad" in line.text for line in lines):
            raise ApiError("invalid_payload", "lines.1.text: no", status=422)
        return await stored(first_line, lines)

    server.append_lines = picky  # type: ignore[method-assign]
    async with reporter(server) as reports:
        for text in ("a", "bad", "c"):
            await reports.add(LogLine(text))
        delivery = await reports.finish("success", None, 0)
    assert [line[:1] for line in server.lines] == ["a", "…", "c"]
    assert delivery.undelivered_lines == 1


async def test_a_server_that_contradicts_itself_is_left_alone() -> None:
    """Corrections are bounded: a server that says `closed` and `running` in turn ends the reporting."""
    server = Server()
    reopened = server.set_status

    async def close_again(status: str, reason: str | None = None, exit_code: int | None = None) -> dict[str, Any]:
        answer = await reopened(status, reason, exit_code)
        server.closed = "runner lost"
        return answer

    server.set_status = close_again  # type: ignore[method-assign]
    server.closed = "runner lost"
    async with reporter(server) as reports:
        await reports.add(LogLine("a"))
        async with asyncio.timeout(5):
            delivery = await reports.finish("success", None, 0)
    assert delivery.undelivered_lines == 1
