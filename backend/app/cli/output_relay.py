"""Carries a command's output to both its readers: raw bytes to this terminal, lines and progress to the server.

Used by `deploy_session.py`. Invariant: what leaves this machine was masked first.
"""

from collections.abc import AsyncIterable
from datetime import UTC, datetime
from typing import Any

from backend.app.cli.live_display import LiveDisplay
from backend.app.client.reporter import Reporter
from backend.app.client.runner_api import LogLine
from backend.app.runner.lines import Line, LineSplitter
from backend.app.runner.masking import Mask
from backend.app.runner.output import Chunk
from backend.app.runner.progress import Progress, ProgressPattern, parse_progress

MAX_LINE_BYTES = 1_048_576
"""Longest line sent; the server's own limit is the same unless an operator changed it."""
REASON_CHARACTERS = 1024
"""Longest step or reason the server takes."""


class OutputRelay:
    """Relays one command's output."""

    def __init__(self, mask: Mask, pattern: ProgressPattern | None, display: LiveDisplay, *, is_split: bool) -> None:
        self._mask = mask
        self._pattern = pattern
        self._display = display
        self._is_split = is_split
        self._percent = 0.0

    async def carry(self, output: AsyncIterable[Chunk], reporter: Reporter) -> None:
        """Relay until the output is over. Waits for a reporter that is full, and so makes the command wait.

        Lines are taken before they are shown: what somebody saw here is not lost, even if this process is killed.
        """
        splitters = {"out": LineSplitter(MAX_LINE_BYTES), "err": LineSplitter(MAX_LINE_BYTES)}
        async for chunk in output:
            splitter = splitters[chunk.stream]
            progress = await self._take(splitter.feed(chunk.data), chunk.stream, reporter)
            if self._pattern is not None and (pending := splitter.pending):
                # A bar that redraws itself by `\r` finishes its line only at the end.
                progress += self._match(Line(self._mask.apply(pending)))
            await self._display.show(chunk.stream, chunk.data)
            await self._tell(progress, reporter)
        for stream, splitter in splitters.items():
            await self._tell(await self._take(splitter.finish(), stream, reporter), reporter)

    async def _take(self, lines: list[Line], stream: str, reporter: Reporter) -> list[Progress]:
        """Give lines to the reporter; return the progress that was among them."""
        moment = now()
        ready: list[LogLine] = []
        found: list[Progress] = []
        for line in lines:
            masked = Line(self._mask.apply(line.text))
            progress = parse_progress(masked)
            if progress is not None:
                found.append(progress)
                continue
            found += self._match(masked)
            ready.append(LogLine(masked.text, time=moment, stream=stream if self._is_split else None))
        if ready:
            await reporter.add(*ready)
        return found

    def _match(self, line: Line) -> list[Progress]:
        progress = None if self._pattern is None else self._pattern.match(line)
        return [] if progress is None else [progress]

    async def _tell(self, found: list[Progress], reporter: Reporter) -> None:
        for progress in found:
            self._percent = self._percent if progress.percent is None else progress.percent
            body: dict[str, Any] = {"progress": self._percent}
            if progress.step is not None:
                body["step"] = progress.step[:REASON_CHARACTERS]
            reporter.set_progress(body)
            await self._display.set_progress(Progress(self._percent, progress.step))


def now() -> str:
    """Return the present moment as the API takes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
