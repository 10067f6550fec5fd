"""Delivers one command's lines, progress and status to the server, soon, in order, once.

Made by `deploy` for a running command and by `spool flush` for what is left of one. The server being
away never stops the command: lines wait within bounds, are sent again by number, and what is lost is
counted. A request to cancel shows in `cancel_requested`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from backend.app.client.backoff import Backoff
from backend.app.client.delivery import Delivery, ReporterTimes
from backend.app.client.errors import ApiError, ClientError, NotLoggedIn, ServerUnreachable
from backend.app.client.line_buffer import LineBuffer, PendingLines
from backend.app.client.runner_api import LogLine, RunnerApi

Create = Callable[[], Awaitable[Any]]
"""Makes the deployment known to the server; can be repeated."""

MOST_WAIT_SECONDS = 30.0
"""Longest wait that a server's Retry-After is granted: half a lease."""
MOST_CORRECTIONS = 3
"""Corrections in a row (of the line number, of a closed deployment); after more, the two sides disagree for good."""
_LINES_AT_ONCE = 256
"""Lines between two looks at whether there is room: short lines weigh many times as much on disk as they were."""


class Reporter:
    """Use with `async with`: entering starts the sending task, leaving ends it; call `finish` before."""

    def __init__(
        self,
        api: RunnerApi,
        *,
        lines: PendingLines | None = None,
        create: Create | None = None,
        is_running: bool = True,
        times: ReporterTimes | None = None,
        backoff: Backoff | None = None,
        notice: Callable[[str], None] | None = None,
        is_cancel_pushed: Callable[[], bool] = lambda: False,
    ) -> None:
        """`create`: what makes the deployment known first; `is_running`: whether the server has it `running`."""
        self._api = api
        self._lines = LineBuffer() if lines is None else lines
        self._create = create
        self._times = times or ReporterTimes()
        self._backoff = backoff or Backoff(first_seconds=0.2, longest_seconds=5.0)
        self._notice = notice or (lambda text: None)
        self._is_cancel_pushed = is_cancel_pushed
        self._progress: dict[str, Any] | None = None
        self._progress_sent_at = 0.0
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._answered_at = time.monotonic()
        self._failures = 0 if is_running else 1  # whoever began without a server knows that it is away
        self._corrections = 0
        self._trouble: str | None = None
        self._error: ClientError | None = None
        self._over: str | None = None
        self._closed: str | None = None  # ended on the server by somebody else: only late lines are taken
        self._task: asyncio.Task[None] | None = None
        self._is_finishing = False
        self._needs_running = not is_running
        self._is_lost = is_running  # a deployment that was running and is not any more was given up as lost
        self.cancel_requested = asyncio.Event()
        """Set once when somebody asked for the deployment to be cancelled."""
        self.is_known = asyncio.Event()
        """Set once the server has the deployment."""
        if create is None and is_running:
            self.is_known.set()

    async def __aenter__(self) -> "Reporter":
        self._task = asyncio.create_task(self._run(), name="deployment reporter")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def add(self, *lines: LogLine) -> None:
        """Take lines. Waits while there is no room, at most `hold` seconds without an answer of the server."""
        for start in range(0, len(lines), _LINES_AT_ONCE):
            part = lines[start : start + _LINES_AT_ONCE]
            if await self._has_room(len(part)):
                self._lines.add(part)
                self._wake.set()

    async def _has_room(self, count: int) -> bool:
        """Wait for room, or make it; False if so many lines were counted as missing instead."""
        while self._lines.is_full:
            left = self._answered_at + self._times.hold - time.monotonic()
            if left <= 0 or self._over is not None:
                return self._lines.make_room(count)
            self._room.clear()
            self._wake.set()
            try:
                async with asyncio.timeout(left):
                    await self._room.wait()
            except TimeoutError:
                continue
        return True

    def set_progress(self, progress: dict[str, Any]) -> None:
        """Take the latest progress; one that was not sent yet is replaced."""
        self._progress = progress
        self._wake.set()

    async def finish(self, status: str, reason: str | None, exit_code: int | None) -> Delivery:
        """Deliver what is left, then the final status; give up after `finish` seconds without an answer.

        Cancelling it leaves undelivered what is.
        """
        self._is_finishing = True
        self._answered_at = time.monotonic()
        self._wake.set()
        ending = asyncio.create_task(self._finish_all(status, reason, exit_code))
        try:
            while not ending.done():
                left = self._answered_at + self._times.finish - time.monotonic()
                if left <= 0:
                    break
                await asyncio.wait({ending}, timeout=left)
            is_delivered = ending.done() and ending.result()
        finally:
            ending.cancel()
            await asyncio.gather(ending, return_exceptions=True)
        why = self._over or self._trouble
        if not is_delivered and why is None:
            why = "the server did not answer in time"
        return Delivery(
            len(self._lines),
            self._lines.dropped,
            is_delivered,
            why,
            self._error,
            is_refused=self._over is not None,
            is_ended_elsewhere=self._closed is not None,
        )

    async def _finish_all(self, status: str, reason: str | None, exit_code: int | None) -> bool:
        if self._task is not None:
            await asyncio.wait({self._task})
        return await self._finish_status(status, reason, exit_code)

    async def _run(self) -> None:
        while True:
            await self._wait_for_work()
            if self._over is not None:
                if self._is_finishing:
                    return
            elif self._create is not None:
                await self._attempt(self._make_known)
            elif self._needs_running:
                await self._attempt(self._set_running)
            elif self._lines.batch():
                await self._attempt(self._send_lines)
            elif self._progress is not None:
                await self._attempt(self._send_progress)
            elif not self._is_finishing:
                await self._attempt(self._beat)
            else:
                return

    async def _wait_for_work(self) -> None:
        """Return when there is something to send: lines a moment after the first, progress, or a heartbeat's time."""
        while not self._is_finishing:
            wait: float | None = self._answered_at + self._beat_seconds() - time.monotonic()
            if self._over is not None:
                wait = None
            elif self._create is not None or self._needs_running or self._lines.has_full_batch:
                return
            elif len(self._lines):
                await asyncio.sleep(self._times.flush)
                return
            elif self._closed is not None:
                wait = None
            elif self._progress is not None:
                wait = self._progress_sent_at + self._times.progress - time.monotonic()
            if wait is not None and wait <= 0:
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

    async def _attempt(self, send: Callable[[], Awaitable[None]]) -> None:
        """Send once; judge a failure: wait and let the loop repeat it, correct it, or end reporting."""
        wait: float | None = None
        try:
            await send()
        except ServerUnreachable as error:
            self._trouble, self._error = error.reason, error
        except NotLoggedIn as error:
            self._error = error
            if self._is_finishing or not self._lines.is_kept:
                self._end(error.reason)
                return
            # Whoever logs in again meanwhile gets the rest.
            self._trouble = str(error)
        except ApiError as error:
            self._error = error
            if not error.is_temporary:
                self._correct(error, is_about_lines=send == self._send_lines)
                return
            self._trouble, wait = error.message, error.retry_after_seconds
        except ClientError as error:
            self._trouble, self._error = str(error), error
        else:
            if self._failures:
                self._notice("the server is back; everything kept meanwhile is being delivered")
            self._failures, self._trouble, self._error = 0, None, None
            return
        if not self._failures:
            is_away = not isinstance(self._error, NotLoggedIn)
            what = f"the server does not answer ({self._trouble})" if is_away else f"not reported: {self._trouble}"
            self._notice(what if self._is_finishing else f"{what}; the command goes on, its output is kept")
        self._failures += 1
        delay = self._backoff.delay_seconds(self._failures) if wait is None else min(wait, MOST_WAIT_SECONDS)
        await asyncio.sleep(delay)

    async def _make_known(self) -> None:
        if self._create is not None:
            await self._create()
            self._create = None
            self._answered({})

    async def _send_lines(self) -> None:
        lines = self._lines.batch()
        answer = await self._api.append_lines(self._lines.first_line, lines)
        self._lines.confirm(int(answer.get("nextLine", self._lines.first_line + len(lines))))
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
            self._lines.confirm(next_line)
            self._lines.renumber(next_line)
        elif error.code == "deployment_closed":
            self._needs_running = self._closed is None
            if self._closed is not None:
                self._end(f"{self._closed}, and takes no more lines")
        elif error.status in (413, 422) and is_about_lines:
            self._lines.refuse()
        elif error.status in (413, 422) and self._progress is not None and self.is_known.is_set():
            self._progress = None
        else:
            self._end(error.message)

    async def _set_running(self) -> None:
        """Take up the deployment, also one that the server gave up as lost.

        Where somebody else ended it, learn how: its lines are still taken for a while, and the command
        of a cancelled one is to stop.
        """
        try:
            answer = await self._api.set_status("running")
        except ApiError as error:
            if error.code != "invalid_transition":
                raise
            status = (await self._api.show()).get("status")
            if status == "cancelled":
                self.cancel_requested.set()
            self._closed = f"the deployment was ended on the server ({status})"
            self._progress = None
            self._answered({})
        else:
            if self._is_lost:
                self._notice("the deployment had been given up as lost; it is taken up again")
            self._answered(answer)
        self._needs_running, self._is_lost = False, True
        self.is_known.set()

    async def _finish_status(self, status: str, reason: str | None, exit_code: int | None) -> bool:
        attempt = 0
        while self._over is None:
            attempt += 1
            try:
                await self._api.set_status(status, reason, exit_code)
                return True
            except ApiError as error:
                self._error = error
                if error.code == "invalid_transition" and self._closed is None and attempt <= MOST_CORRECTIONS:
                    self._needs_running = True
                    await self._attempt(self._set_running)
                    continue
                if not error.is_temporary:
                    self._end(self._closed or error.message)
                    continue
                self._trouble = error.message
            except NotLoggedIn as error:
                self._error = error
                self._end(error.reason)
                continue
            except ClientError as error:
                self._trouble, self._error = str(error), error
            await asyncio.sleep(self._backoff.delay_seconds(attempt))
        return False

    def _end(self, reason: str) -> None:
        """Stop reporting for good; the command goes on."""
        if self._over is None:
            self._over = reason
            self._lines.stop()
            self._room.set()
            goes_on = "" if self._is_finishing else "; the command goes on"
            kept = ", its output is kept" if self._lines.is_kept and goes_on else ""
            self._notice(f"reporting stopped: {reason}{goes_on}{kept}")
