"""What a command on a pseudo-terminal can read from it: the user's typing, or an end of file.

Called by `process.py`. When our own input is a pipe or a file the command has it directly (any bytes, any length, its
own end); only a terminal's typing is carried over here. Invariant: our terminal's settings are put back by `close()`,
and neither class ever blocks the loop.
"""

import asyncio
import os
import signal
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

END_OF_FILE = b"\x04"
"""What a terminal makes an end of file of (VEOF, Ctrl-D)."""

TYPED_BYTES = 1024
_LOCAL_MODES, _INPUT_MODES, _CHARACTERS = 3, 0, 6  # places in what tcgetattr gives


class TypedInput:
    """Carries what the user types on our terminal to the command's terminal.

    While it does, the command's terminal does the echo and the line editing, ours does not: a password that the
    command reads without echo is not shown. Ctrl-C and Ctrl-Z still act on us. Ends by itself when our terminal hangs
    up (the command reads an end of file) or we are moved to the background.
    """

    def __init__(self, source: int, master: int) -> None:
        self._source = source
        self._master = master
        self._settings_before: list[Any] | None = None
        self._unwritten = b""
        self._is_waiting = False  # for the command to read

    def start(self) -> None:
        """Begins to read, if we are in the foreground: in the background, reading would suspend us."""
        if not self._is_foreground():
            return
        try:
            before = termios.tcgetattr(self._source)
            settings = termios.tcgetattr(self._source)
        except termios.error:  # hung up meanwhile
            return
        settings[_INPUT_MODES] &= ~termios.ICRNL
        settings[_LOCAL_MODES] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN)
        settings[_CHARACTERS][termios.VMIN], settings[_CHARACTERS][termios.VTIME] = 1, 0
        termios.tcsetattr(self._source, termios.TCSANOW, settings)
        self._settings_before = before
        asyncio.get_running_loop().add_reader(self._source, self._read)

    def close(self) -> None:
        """Stops reading and puts our terminal's settings back; calling it again does nothing."""
        if self._settings_before is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._source)
        loop.remove_writer(self._master)
        before, self._settings_before = self._settings_before, None
        with suppress(termios.error), _changing_terminal_allowed():  # hung up: no settings are left to put back
            termios.tcsetattr(self._source, termios.TCSANOW, before)

    def _is_foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self._source) == os.getpgrp()
        except OSError:
            return True  # not our controlling terminal: there is no background to it

    def _read(self) -> None:
        if not self._is_foreground():
            self.close()
            return
        try:
            data = os.read(self._source, TYPED_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # hung up
        if not data:
            _type(self._master, END_OF_FILE)
            self.close()
            return
        self._unwritten = data
        self._write()

    def _write(self) -> None:
        """Passes on what was typed; until it is all taken, nothing more is read."""
        loop = asyncio.get_running_loop()
        was_waiting = self._is_waiting
        self._unwritten = self._unwritten[_type(self._master, self._unwritten) :]
        self._is_waiting = bool(self._unwritten)
        if self._is_waiting and not was_waiting:
            loop.remove_reader(self._source)
            loop.add_writer(self._master, self._write)
        elif was_waiting and not self._is_waiting:
            loop.remove_writer(self._master)
            loop.add_reader(self._source, self._read)


class NoInput:
    """Gives an end of file to whoever reads the command's terminal, since nobody can type there.

    Without it a question asked on /dev/tty (a password, a host key) would wait for ever. It is repeated, because such
    programs throw away what was typed before their question.
    """

    def __init__(self, master: int, repeat_seconds: float) -> None:
        self._master = master
        self._repeat_seconds = repeat_seconds
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Types the end of file now and every `repeat_seconds`; a full input queue drops it."""
        _type(self._master, END_OF_FILE)
        self._timer = asyncio.get_running_loop().call_later(self._repeat_seconds, self.start)

    def close(self) -> None:
        """Stops repeating; calling it again does nothing."""
        if self._timer is not None:
            self._timer.cancel()


def _type(master: int, data: bytes) -> int:
    """Writes without waiting and returns how many bytes were taken (all, where nobody is left to take them)."""
    try:
        return os.write(master, data)
    except BlockingIOError:
        return 0
    except OSError:
        return len(data)


@contextmanager
def _changing_terminal_allowed() -> Iterator[None]:
    """Lets a background process change its terminal, which would suspend it otherwise."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
