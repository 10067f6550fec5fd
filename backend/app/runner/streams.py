"""The input and output of a command: on a pseudo-terminal, or on one or two pipes.

Owns the descriptors on our side and what the command's side must open; called by `process.py`. Invariant: every
descriptor opened here is closed by `close()`, which may be called at any time and again.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from backend.app.runner.output import Stream
from backend.app.runner.spawn import FileAction
from backend.app.runner.terminal import DEFAULT_SIZE, Terminal, WindowSize
from backend.app.runner.terminal_input import NoInput, TypedInput

Mode = Literal["pty", "pipe", "split"]
"""One pseudo-terminal for both streams; one pipe for both; two pipes (the order between them is not kept)."""


class CommandStreams(Protocol):
    """What `process.py` needs of either kind."""

    @property
    def sources(self) -> Sequence[tuple[int, Stream]]:
        """The non-blocking descriptors to read the output from."""

    @property
    def file_actions(self) -> Sequence[FileAction]:
        """What makes descriptors 0, 1 and 2 of the command."""

    def complete(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Returns the environment with what a program needs to know about its streams."""

    def command_started(self) -> None:
        """Gives up our copies of the command's side and begins to carry input."""

    def command_ended(self) -> None:
        """Lets the output end as soon as no other process holds it open."""

    def resize(self, size: WindowSize) -> None:
        """Gives a terminal a new size."""

    def close(self) -> None:
        """Closes everything."""


def open_streams(mode: Mode, stdin: int | None, size: WindowSize | None, no_input_seconds: float) -> CommandStreams:
    """Opens the streams; `stdin` None is an empty input, `size` None an unknown one. Raises OSError."""
    if stdin is not None and not _is_open(stdin):
        stdin = None
    if mode == "pty":
        return TerminalStreams(stdin, size, no_input_seconds)
    return PipeStreams(stdin, size, is_split=mode == "split")


class TerminalStreams:
    """Both output streams, in order, on one pseudo-terminal that is the command's controlling terminal.

    The input is that terminal too if ours is one. Any other input the command gets directly, since a terminal would
    cut lines at 4,095 bytes and act on control characters; from the terminal it then reads an end of file.
    """

    def __init__(self, stdin: int | None, size: WindowSize | None, no_input_seconds: float) -> None:
        self._stdin = stdin
        self._size = size
        self._is_typed = stdin is not None and os.isatty(stdin)
        self._terminal = Terminal(size or DEFAULT_SIZE, echo=self._is_typed)
        self._input = (
            TypedInput(stdin, self._terminal.master)
            if stdin is not None and self._is_typed
            else NoInput(self._terminal.master, no_input_seconds)
        )

    @property
    def sources(self) -> Sequence[tuple[int, Stream]]:
        return [(self._terminal.master, "out")]

    @property
    def file_actions(self) -> Sequence[FileAction]:
        # Opened by name inside the new session, not inherited: that is what makes it the controlling terminal.
        opened: list[FileAction] = [(os.POSIX_SPAWN_OPEN, 1, self._terminal.name, os.O_RDWR, 0)]
        opened.append((os.POSIX_SPAWN_DUP2, 1, 2))
        if self._is_typed:
            return [*opened, (os.POSIX_SPAWN_DUP2, 1, 0)]
        return [*_direct_input(self._stdin), *opened]

    def complete(self, environment: Mapping[str, str]) -> dict[str, str]:
        completed = _with_size(environment, self._size)
        if not completed.get("TERM"):
            completed["TERM"] = "xterm-256color"
        if not self._is_typed:
            # Seeing a terminal, git and systemctl would page, and wait for a key that nobody can press.
            completed.setdefault("PAGER", "cat")
            completed.setdefault("GIT_PAGER", "cat")
        return completed

    def command_started(self) -> None:
        self._input.start()

    def command_ended(self) -> None:
        self._terminal.release()

    def resize(self, size: WindowSize) -> None:
        self._terminal.resize(size)

    def close(self) -> None:
        self._input.close()
        self._terminal.close()


class PipeStreams:
    """One pipe for both output streams, or one for each; the input is ours, directly."""

    def __init__(self, stdin: int | None, size: WindowSize | None, *, is_split: bool) -> None:
        self._stdin = stdin
        self._size = size
        self._read_ends: list[int] = []
        self._write_ends: list[int] = []
        try:
            for _ in range(2 if is_split else 1):
                read_end, write_end = os.pipe()
                self._read_ends.append(read_end)
                self._write_ends.append(write_end)
                os.set_blocking(read_end, False)
        except BaseException:  # nobody else knows the descriptors yet
            self.close()
            raise

    @property
    def sources(self) -> Sequence[tuple[int, Stream]]:
        names: tuple[Stream, Stream] = ("out", "err")
        return list(zip(self._read_ends, names, strict=False))

    @property
    def file_actions(self) -> Sequence[FileAction]:
        return [
            *_direct_input(self._stdin),
            (os.POSIX_SPAWN_DUP2, self._write_ends[0], 1),
            (os.POSIX_SPAWN_DUP2, self._write_ends[-1], 2),
        ]

    def complete(self, environment: Mapping[str, str]) -> dict[str, str]:
        return _with_size(environment, self._size)

    def command_started(self) -> None:
        _close_all(self._write_ends)

    def command_ended(self) -> None:
        """Nothing to let go: only the command's processes hold the other ends."""

    def resize(self, size: WindowSize) -> None:
        """A pipe has no size."""

    def close(self) -> None:
        _close_all(self._read_ends)
        _close_all(self._write_ends)


def _direct_input(stdin: int | None) -> list[FileAction]:
    if stdin is None:
        return [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
    return [] if stdin == 0 else [(os.POSIX_SPAWN_DUP2, stdin, 0)]


def _with_size(environment: Mapping[str, str], size: WindowSize | None) -> dict[str, str]:
    """Without a terminal of ours the size cannot change, so programs that see none themselves may be told it."""
    completed = dict(environment)
    if size is None:
        completed.setdefault("LINES", str(DEFAULT_SIZE.rows))
        completed.setdefault("COLUMNS", str(DEFAULT_SIZE.columns))
    return completed


def _close_all(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
