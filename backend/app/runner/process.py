"""Runs one command, gives its output as it is printed, and ends everything it started when it is to stop.

Owns the life of the command; called by `windflow deploy`, which installs the signal handlers and calls `stop()` and
`resize()` from them. Knows nothing of lines, servers or the command line. Invariants: leaving the `async with` block
in any way leaves no command running, no descriptor open and no zombie; unread output waits in the command, not here.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from backend.app.runner.exit_watch import ExitWatch
from backend.app.runner.output import Chunk, OutputReader
from backend.app.runner.process_tree import ProcessTree
from backend.app.runner.spawn import CommandNotStartable, spawn
from backend.app.runner.stopping import Stopper
from backend.app.runner.streams import CommandStreams, Mode, open_streams
from backend.app.runner.terminal import WindowSize, terminal_size

__all__ = [
    "Chunk",
    "CommandNotStartable",
    "CommandProcess",
    "Durations",
    "Exit",
    "Mode",
    "WindowSize",
    "terminal_size",
]


@dataclass(frozen=True, slots=True)
class Exit:
    """How a command ended: `exit_code` as a shell gives it, 128 + n if signal n ended it.

    `is_stopped`: by `stop()` or its timeout, `is_timed_out`: by its timeout, each asked for before it ended.
    """

    exit_code: int
    signal_number: int | None
    is_stopped: bool
    is_timed_out: bool


@dataclass(frozen=True, slots=True)
class Durations:
    """Every time limit of a run, in seconds."""

    kill_after_seconds: float = 10.0  # from asking a command to stop to ending it by force
    timeout_seconds: float | None = None  # a command that runs longer is stopped
    linger_seconds: float = 2.0  # for output of processes that outlive the command
    settle_seconds: float = 2.0  # for processes ended by force to be gone
    poll_seconds: float = 0.05  # between looking whether stopped processes are gone
    no_input_seconds: float = 1.0  # at most until a question that nobody can answer reads its end of file


class CommandProcess:
    """One run of a command: `async with CommandProcess([...]) as process`, then `async for chunk in process`.

    The output must be read (by one task) or the command waits as soon as the pipe or terminal is full; `wait()` and
    `stop()` may be awaited by other tasks meanwhile. What a command leaves running when it ends by itself is left
    alone, as a shell does; what is stopped, timed out or left early is ended with all that it started.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        mode: Mode = "pty",
        cwd: str | None = None,
        environment: Mapping[str, str] | None = None,
        stdin: int | None = 0,
        size: WindowSize | None = None,
        durations: Durations | None = None,
        read_bytes: int = 65_536,
    ) -> None:
        """Starts nothing yet. Raises ValueError for an argv that no system call takes.

        `environment` is ours by default; `stdin` a descriptor (None: empty input); `size` by default that of our
        terminal, else 120 columns by 40 rows; `read_bytes` the size of the largest chunk.
        """
        if not argv or any("\0" in argument for argument in argv):
            raise ValueError("a command needs a program, and none of its arguments may hold a NUL character")
        self._argv = list(argv)
        self._mode: Mode = mode
        self._cwd = cwd
        self._environment = os.environ if environment is None else environment
        self._stdin = stdin
        self._size = size or terminal_size(self._environment)
        self._durations = durations or Durations()
        self._read_bytes = read_bytes
        self._tree = ProcessTree()
        self._ended = asyncio.Event()  # the command itself has ended
        self._stopper = Stopper(
            self._tree,
            self._ended,
            poll_seconds=self._durations.poll_seconds,
            settle_seconds=self._durations.settle_seconds,
        )
        self._stop_task: asyncio.Task[tuple[int, ...]] | None = None
        self._is_timed_out = False
        self._is_closed = False
        self._exit: Exit | None = None
        self._exit_known = asyncio.Event()
        self._streams: CommandStreams | None = None
        self._output: OutputReader | None = None
        self._watch: ExitWatch | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.pid = 0

    async def __aenter__(self) -> Self:
        """Starts the command. Raises CommandNotStartable, with a shell's exit code, if it cannot be started, and
        OSError if there is no terminal, pipe or descriptor left."""
        streams = open_streams(self._mode, self._stdin, self._size, self._durations.no_input_seconds)
        try:
            self._start(streams)
        except BaseException:  # the block is not entered, so nobody else would end and close this
            streams.close()
            self._undo_spawn()
            raise
        self._streams = streams
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stops the command if it still runs, dropping its output; if cancelled meanwhile, ends it by force."""
        try:
            if not self._ended.is_set() or (self._stop_task is not None and not self._stop_task.done()):
                await self._stop_unread()
        finally:
            self._close()

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self

    async def __anext__(self) -> Chunk:
        """Waits for the next output; the iteration ends when the output is over. Cancelling it loses nothing."""
        if self._output is None:
            raise RuntimeError("the command is not started: use `async with`")
        chunk = await self._output.read()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    @property
    def is_running(self) -> bool:
        """Whether the command itself (not what it left behind) has been started and has not ended."""
        return self.pid != 0 and not self._ended.is_set()

    async def wait(self) -> Exit:
        """Waits until the command ended; its output may not be over yet, and must be read for it to end.

        Cancelling it changes nothing: the command is stopped when the cancelled task leaves the `async with` block.
        """
        while self._exit is None:
            await self._exit_known.wait()
        return self._exit

    async def stop(self, kill_after_seconds: float | None = None) -> tuple[int, ...]:
        """Ends the command and everything it started: SIGTERM, and after the given time (default: that of the
        durations) SIGKILL to what is left. A second call may shorten the time. Goes on if its caller is cancelled.

        Returns the pids of what could not be ended, because it is another user's for example; normally none.
        """
        if self._is_closed:  # the pid may be another process's by now
            return ()
        return await asyncio.shield(self._begin_to_stop(kill_after_seconds))

    def resize(self, size: WindowSize) -> None:
        """Gives the command's terminal a new size, of which the kernel tells the command; no effect on pipes."""
        if self._streams is not None:
            self._streams.resize(size)

    def _start(self, streams: CommandStreams) -> None:
        environment = streams.complete(self._environment) | self._tree.environment
        if self._cwd is not None:
            environment["PWD"] = os.path.abspath(self._cwd)
        self.pid = spawn(self._argv, environment=environment, cwd=self._cwd, file_actions=streams.file_actions)
        self._tree.started(self.pid)
        limits = self._durations
        loop = asyncio.get_running_loop()
        streams.command_started()
        self._output = OutputReader(streams.sources, read_bytes=self._read_bytes, linger_seconds=limits.linger_seconds)
        self._watch = ExitWatch(self.pid, lambda code: loop.call_soon_threadsafe(self._command_ended, code))
        if limits.timeout_seconds is not None:
            self._timer = loop.call_later(limits.timeout_seconds, self._time_out)

    def _undo_spawn(self) -> None:
        if self.pid:
            self._tree.send(signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0

    def _command_ended(self, code: int) -> None:
        self._ended.set()
        self._set_exit(code)
        if self._streams is not None and self._output is not None:
            self._streams.command_ended()
            self._output.command_ended()

    def _set_exit(self, code: int) -> None:
        if self._exit is None:
            self._exit = Exit(
                exit_code=128 - code if code < 0 else code,
                signal_number=-code if code < 0 else None,
                is_stopped=self._stop_task is not None,
                is_timed_out=self._is_timed_out,
            )
            self._exit_known.set()

    def _time_out(self) -> None:
        if self.is_running:
            self._is_timed_out = True
            self._begin_to_stop(None)

    def _begin_to_stop(self, kill_after_seconds: float | None) -> asyncio.Task[tuple[int, ...]]:
        if self._watch is None:
            raise RuntimeError("the command is not started: use `async with`")
        self._stopper.force_after(
            self._durations.kill_after_seconds if kill_after_seconds is None else kill_after_seconds
        )
        if self._stop_task is None:
            self._stop_task = asyncio.create_task(self._stop(), name=f"stop-{self.pid}")
        return self._stop_task

    async def _stop(self) -> tuple[int, ...]:
        left = await self._stopper.run()
        self._set_exit(-signal.SIGKILL)  # of a command that not even this ended nobody shall wait for ever
        return left

    async def _stop_unread(self) -> None:
        """Stops the command while dropping its output, so that a last message cannot keep it from ending."""
        stopping = self._begin_to_stop(None)
        dropping = asyncio.create_task(self._drop_output(), name=f"drop-output-{self.pid}")
        try:
            await asyncio.shield(stopping)
        finally:
            if not stopping.done():  # cancelled once more: no time is left to ask
                self._tree.find()
            if not stopping.done() or self.is_running:
                self._tree.send(signal.SIGKILL)
            stopping.cancel()
            dropping.cancel()
            await asyncio.gather(stopping, dropping, return_exceptions=True)

    async def _drop_output(self) -> None:
        if self._output is not None and not self._output.is_busy:
            while await self._output.read() is not None:
                pass

    def _close(self) -> None:
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._output is not None:
            self._output.end()
        if self._streams is not None:
            self._streams.close()
        if self._watch is not None:
            self._watch.release(wait=self._ended.is_set())
