"""What `deploy` shows in its own terminal: the command's bytes as they are, and a progress bar below them.

Writing happens in a thread: a terminal that is held up (a paused pager) must stop neither the
reports to the server nor the reaction to Ctrl-C.
"""

import asyncio
import contextlib
import io
import os
import queue
import select
import sys
import threading

from backend.app.runner.lines import Line
from backend.app.runner.progress import Progress, parse_progress

DIRECTIVE = b"##progress"
MOST_HELD_BYTES = 4096
"""A line that begins like a directive is held back until its end, but no longer than this."""
ERASE_LINE = b"\r\x1b[2K"
_BAR_COLUMNS = 30


class DirectiveFilter:
    """Takes `##progress …` lines out of a stream of bytes: they are for the bar, not for the eye. Pure."""

    def __init__(self) -> None:
        self._held = b""
        self._is_at_start = True

    def feed(self, data: bytes) -> bytes:
        """Return what may be shown of these bytes, together with what was held back before."""
        if not self._held and DIRECTIVE[:1] not in data:
            # Most output: nothing in it can be the start of a directive.
            self._is_at_start = data.endswith(b"\n") if data else self._is_at_start
            return data
        shown = []
        for part in _lines(self._held + data):
            self._held = b""
            if self._is_at_start and _is_directive(part):
                continue
            if self._is_at_start and _may_become_directive(part):
                self._held = part
                continue
            shown.append(part)
            self._is_at_start = part.endswith(b"\n")
        return b"".join(shown)

    def finish(self) -> bytes:
        """Return what is still held back."""
        held, self._held = self._held, b""
        return held


class LiveDisplay:
    """Shows output on a descriptor; `is_hidden` shows nothing, and the bar needs a terminal."""

    def __init__(self, descriptor: int = 1, *, is_hidden: bool = False, is_plain: bool = False) -> None:
        self._descriptor = descriptor
        self._is_hidden = is_hidden
        self._is_plain = is_plain
        self._filters = {"out": DirectiveFilter(), "err": DirectiveFilter()}
        self._has_bar = not is_hidden and os.isatty(descriptor) and os.environ.get("TERM", "") != "dumb"
        self._progress: Progress | None = None
        self._is_bar_shown = False
        self._ends_line = True
        self._writer = _Writer()
        self._given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def show(self, stream: str, data: bytes) -> None:
        """Show bytes of the command. A reader that has left ends the showing, never the command."""
        if self._is_hidden:
            return
        shown = self._filters[stream].feed(data)
        if shown:
            descriptor = 2 if stream == "err" else self._descriptor
            await self._write(descriptor, shown)

    async def set_progress(self, progress: Progress) -> None:
        """Draw the bar anew."""
        self._progress = progress
        if self._has_bar:
            await self._write(self._descriptor, b"")

    async def finish(self) -> None:
        """Take the bar away and show what was held back."""
        self._has_bar = False
        for stream, held in self._filters.items():
            await self._write(2 if stream == "err" else self._descriptor, held.finish())

    def erase_bar(self) -> None:
        """Make the bar's line free for a message on stderr; the next output draws the bar again."""
        if self._is_bar_shown:
            self._is_bar_shown = False
            self._writer.put(self._descriptor, ERASE_LINE).add_done_callback(lambda done: done.exception())

    def give_up(self) -> None:
        """Wait no longer for a terminal that takes nothing; what is still to be shown is not."""
        if not self._given_up.done():
            self._given_up.set_result(None)

    def close(self) -> None:
        """End the writing thread, without waiting for it."""
        self.give_up()
        self._writer.close()

    async def _write(self, descriptor: int, data: bytes) -> None:
        before = ERASE_LINE if self._is_bar_shown else b""
        if data:
            self._ends_line = data.endswith(b"\n")
        # Between two halves of a line the bar would stand in the middle of it.
        bar = self._bar() if self._has_bar and self._ends_line else b""
        self._is_bar_shown = bool(bar)
        content = before + data + bar
        if not content or self._given_up.done():
            return
        written = self._writer.put(descriptor, content)
        await asyncio.wait({written, self._given_up}, return_when=asyncio.FIRST_COMPLETED)
        if written.done() and written.exception() is not None:
            # The reader has left, or the terminal is gone.
            self._is_hidden, self._has_bar = True, False
            self.give_up()

    def _bar(self) -> bytes:
        if self._progress is None or self._progress.percent is None:
            return b""
        from rich.console import Console
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        width = max(20, _columns(self._descriptor) - 1)
        console = Console(
            file=io.StringIO(), force_terminal=True, width=width, no_color=self._is_plain or None, highlight=False
        )
        row = Table.grid(padding=(0, 1), expand=False)
        row.add_column(width=min(_BAR_COLUMNS, width // 2))
        row.add_column(width=4, justify="right", no_wrap=True)
        row.add_column(no_wrap=True, overflow="ellipsis")
        bar = ProgressBar(total=100, completed=self._progress.percent, width=min(_BAR_COLUMNS, width // 2))
        step = Text((self._progress.step or "").replace("\n", " "))
        row.add_row(bar, Text(f"{self._progress.percent:.0f}%"), step)
        with console.capture() as capture:
            console.print(row, end="")
        return capture.get().rstrip("\n").encode()


class _Writer:
    """Writes in a thread of its own. A daemon: a write that never ends must not keep this process from ending."""

    def __init__(self) -> None:
        self._jobs: queue.Queue[tuple[int, bytes, asyncio.Future[None]] | None] = queue.Queue(maxsize=16)
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="terminal writer", daemon=True)
        self._thread.start()

    def put(self, descriptor: int, data: bytes) -> asyncio.Future[None]:
        """Have bytes written after those before; the future ends with it, or with its OSError."""
        future: asyncio.Future[None] = self._loop.create_future()
        try:
            self._jobs.put_nowait((descriptor, data, future))
        except queue.Full:
            future.set_exception(BlockingIOError("the terminal takes nothing"))
        return future

    def close(self) -> None:
        """End after the writes that were given before."""
        with contextlib.suppress(queue.Full):  # then it hangs in a write, and ends with the process
            self._jobs.put_nowait(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            descriptor, data, future = job
            error: OSError | None = None
            try:
                _write_all(descriptor, data)
            except OSError as failed:
                error = failed
            try:
                self._loop.call_soon_threadsafe(_settle, future, error)
            except RuntimeError:
                return  # the loop has ended and nobody waits any more


def _settle(future: asyncio.Future[None], error: OSError | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _lines(data: bytes) -> list[bytes]:
    """Split at `\\n` only: `\\r` belongs to the line."""
    parts = data.split(b"\n")
    whole = [part + b"\n" for part in parts[:-1]]
    return [*whole, parts[-1]] if parts[-1] else whole


def _is_directive(part: bytes) -> bool:
    if not part.startswith(DIRECTIVE) or not part.endswith(b"\n"):
        return False
    return parse_progress(Line(part.rstrip(b"\r\n").decode("utf-8", "replace"))) is not None


def _may_become_directive(part: bytes) -> bool:
    if part.endswith(b"\n") or len(part) > MOST_HELD_BYTES:
        return False
    return part.startswith(DIRECTIVE) or DIRECTIVE.startswith(part)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            written = os.write(descriptor, view)
        except BlockingIOError:
            # Somebody else made this terminal non-blocking: wait for it like any other.
            select.select([], [descriptor], [])
            continue
        view = view[written:]


def _columns(descriptor: int) -> int:
    try:
        return os.get_terminal_size(descriptor).columns or 80
    except OSError:
        return 80


def flush_python_output() -> None:
    """Bring out what Python still holds, so that it stands before the command's own bytes."""
    sys.stdout.flush()
    sys.stderr.flush()
