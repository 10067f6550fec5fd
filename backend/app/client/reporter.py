"""Delivers one running command's lines, progress and status to the server, soon, in order, once.

Made by `deploy`. The server being away never stops the command: lines wait within bounds, are
sent again by number, and what is lost is counted. A request to cancel shows in `cancel_requested`.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from backend.app.client.backoff import Backoff
from backend.app.client.errors import ApiError, ClientError, NotLoggedIn, ServerUnreachable
from backend.app.client.line_buffer import BufferLimits, LineBuffer
from backend.app.client.runner_api import LogLine, RunnerApi

MOST_CORRECTIONS = 3
"""Corrections in a row (of the line number, of a closed deployment); after more, the two sides disagree for good."""


@dataclass(frozen=True, slots=True)
class ReporterTimes:
    """Seconds."""

    flush: float = 0.05
    """How long a line waits for others: what a reader notices least and a server thanks most."""
    progress: float = 0.2
    """Least time between two progress reports."""
    heartbeat: float = 15.0
    hold: float = 10.0
    """How long a full buffer may hold the command up while no answer comes; then the oldest lines go."""
    finish: float = 30.0
    """How long what is left is tried to be delivered after the command ended."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of a deployment's reports."""

    undelivered_lines: int
    is_status_delivered: bool
    reason: str | None
    """Why something was not delivered."""

    @property
    def is_complete(self) -> bool:
        """Whether the server knows everything."""
        return self.is_status_delivered and not self.undelivered_lines


class Reporter:
    """Use with `async with`: entering starts the sending task, leaving ends it; call `finish` before."""

    def __init__(
        self,
        api: RunnerApi,
        *,
        times: ReporterTimes | None = None,
        limits: BufferLimits | None = None,
        backoff: Backoff | None = None,
        notice: Callable[[str], None] | None = None,
        is_cancel_pushed: Callable[[], bool] = lambda: False,
    ) -> None:
        self._api = api
        self._times = times or ReporterTimes()
        self._buffer = LineBuffer(limits)
        self._backoff = backoff or Backoff(first_seconds=0.2, longest_seconds=5.0)
        self._notice = notice or (lambda text: None)
        self._is_cancel_pushed = is_cancel_pushed
        self._progress: dict[str, Any] | None = None
        self._progress_sent_at = 0.0
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._answered_at = time.monotonic()
        self._failures = 0
        self._corrections = 0
        self._trouble: str | None = None
        self._over: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_finishing = False
        self._needs_reopening = False
        self.cancel_requested = asyncio.Event()
        """Set once when somebody asked for the deployment to be cancelled."""

    async def __aenter__(self) -> "Reporter":
        self._task = asyncio.create_task(self._run(), name="deployment reporter")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def add(self, line: LogLine) -> None:
        """Take a line. Waits while the buffer is full, at most `hold` seconds without an answer of the server."""
        while self._buffer.is_full and self._over is None:
            left = self._answered_at + self._times.hold - time.monotonic()
            if left <= 0:
                self._buffer.drop_oldest()
                break
            self._room.clear()
            self._wake.set()
            try:
                async with asyncio.timeout(left):
                    await self._room.wait()
            except TimeoutError:
                continue
        if self._over is not None:
            self._buffer.dropped += 1
            return
        self._buffer.add(line)
        self._wake.set()

    def set_progress(self, progress: dict[str, Any]) -> None:
        """Take the latest progress; one that was not sent yet is replaced."""
        self._progress = progress
        self._wake.set()

    async def finish(self, status: str, reason: str | None, exit_code: int | None) -> Delivery:
        """Deliver what is left, then the final status; give up after `finish` seconds and say what is missing."""
        self._is_finishing = True
        self._wake.set()
        is_delivered = False
        try:
            async with asyncio.timeout(self._times.finish):
                if self._task is not None:
                    await asyncio.wait({self._task})
                is_delivered = await self._finish_status(status, reason, exit_code)
        except TimeoutError:
            self._trouble = self._trouble or "the server did not answer in time"
        undelivered = self._buffer.dropped + len(self._buffer)
        return Delivery(undelivered, is_delivered, self._over or self._trouble)

    async def _run(self) -> None:
        while True:
            await self._wait_for_work()
            if self._over is not None:
                self._buffer.clear()
                self._progress = None
                self._answered_at = time.monotonic()
                self._room.set()
            elif self._needs_reopening:
                await self._attempt(self._reopen)
            elif self._buffer.batch():
                await self._attempt(self._send_lines)
            elif self._progress is not None:
                await self._attempt(self._send_progress)
            elif not self._is_finishing:
                await self._attempt(self._beat)
            if self._is_finishing and not len(self._buffer) and self._progress is None:
                return

    async def _wait_for_work(self) -> None:
        """Return when there is something to send: lines a moment after the first, progress, or a heartbeat's time."""
        while not self._is_finishing and not self._buffer.has_full_batch:
            wait = self._answered_at + self._beat_seconds() - time.monotonic()
            if len(self._buffer):
                await asyncio.sleep(self._times.flush)
                return
            if self._progress is not None:
                wait = self._progress_sent_at + self._times.progress - time.monotonic()
            if wait <= 0:
                return
            self._wake.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _beat_seconds(self) -> float:
        """Ask more often where nothing pushes a cancel request to this runner."""
        return self._times.heartbeat if self._is_cancel_pushed() else self._times.heartbeat / 5

    async def _attempt(self, send: Callable[[], Any]) -> None:
        """Send once; judge a failure: wait and let the loop repeat it, correct it, or end reporting."""
        wait: float | None = None
        try:
            await send()
        except ServerUnreachable as error:
            self._trouble = error.reason
        except NotLoggedIn as error:
            self._end(error.reason)
            return
        except ApiError as error:
            if error.status < 500 and error.status != 429:
                self._correct(error, is_about_lines=send == self._send_lines)
                return
            self._trouble, wait = error.message, error.retry_after_seconds
        except ClientError as error:
            self._trouble = str(error)
        else:
            if self._failures:
                self._notice("the server is back; everything kept meanwhile is being delivered")
            self._failures, self._trouble = 0, None
            return
        if not self._failures:
            self._notice(f"the server does not answer ({self._trouble}); the command goes on, its output is kept")
        self._failures += 1
        await asyncio.sleep(self._backoff.delay_seconds(self._failures) if wait is None else wait)

    async def _send_lines(self) -> None:
        lines = self._buffer.batch()
        answer = await self._api.append_lines(self._buffer.first_line, lines)
        self._buffer.confirm(int(answer.get("nextLine", self._buffer.first_line + len(lines))))
        self._corrections = 0
        self._answered(answer)

    async def _send_progress(self) -> None:
        progress = self._progress
        if progress is not None:
            self._progress_sent_at = time.monotonic()
            self._answered(await self._api.set_progress(progress))
            if self._progress is progress:
                self._progress = None

    async def _beat(self) -> None:
        self._answered(await self._api.heartbeat())
        self._corrections = 0

    def _answered(self, answer: dict[str, Any]) -> None:
        self._answered_at = time.monotonic()
        self._room.set()
        if answer.get("cancelRequested") is True:
            self.cancel_requested.set()

    def _correct(self, error: ApiError, *, is_about_lines: bool) -> None:
        """React to a refusal, which repeating alone would not change."""
        self._answered_at = time.monotonic()
        next_line = error.detail("nextLine")
        if error.code in ("log_gap", "deployment_closed"):
            self._corrections += 1
        if self._corrections > MOST_CORRECTIONS:
            self._end(error.message)
        elif error.code == "log_gap" and isinstance(next_line, int):
            self._buffer.confirm(next_line)
            self._buffer.renumber(next_line)
        elif error.code == "deployment_closed":
            self._needs_reopening = True
        elif error.status in (413, 422) and is_about_lines:
            self._buffer.refuse()
        elif error.status in (413, 422):
            self._progress = None
        else:
            self._end(error.message)

    async def _reopen(self) -> None:
        """Take the deployment up again that the server gave up as lost; else learn how it was ended, and stop."""
        try:
            await self._api.set_status("running")
        except ApiError as error:
            if error.status >= 500 or error.status == 429:
                raise
            seen = await self._api.show()
            if seen.get("status") == "cancelled":
                self.cancel_requested.set()
            self._end(f"the deployment was ended on the server ({seen.get('status')})")
        else:
            self._notice("the deployment had been given up as lost; it is taken up again")
        self._needs_reopening = False

    async def _finish_status(self, status: str, reason: str | None, exit_code: int | None) -> bool:
        attempt = 0
        has_reopened = False
        while self._over is None:
            attempt += 1
            try:
                await self._api.set_status(status, reason, exit_code)
                return True
            except ApiError as error:
                if error.code == "invalid_transition" and not has_reopened:
                    has_reopened = True
                    await self._attempt(self._reopen)
                    continue
                if error.status < 500 and error.status != 429:
                    self._end(error.message)
                    continue
                self._trouble = error.message
            except NotLoggedIn as error:
                self._end(error.reason)
                continue
            except ClientError as error:
                self._trouble = str(error)
            await asyncio.sleep(self._backoff.delay_seconds(attempt))
        return False

    def _end(self, reason: str) -> None:
        """Stop reporting for good; the command goes on."""
        if self._over is None:
            self._over = reason
            self._buffer.clear()
            self._room.set()
            self._notice(f"reporting stopped: {reason}; the command goes on")
