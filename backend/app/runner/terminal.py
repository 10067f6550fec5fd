"""The pseudo-terminal a command runs on, and its size.

Owns both sides of the terminal; called by `process.py`. The command's side is held open here until the command has
ended: a command that closes its output and opens /dev/tty later is not taken for finished. Invariant: every
descriptor opened here is closed by `close()`.
"""

import fcntl
import os
import pty
import struct
import termios
from collections.abc import Mapping
from dataclasses import dataclass

_SIZE_LIMIT = 0xFFFF  # the kernel keeps unsigned shorts


@dataclass(frozen=True, slots=True)
class WindowSize:
    """Rows and columns of a terminal, each from 1 to 65535."""

    rows: int
    columns: int

    def __post_init__(self) -> None:
        if not (1 <= self.rows <= _SIZE_LIMIT and 1 <= self.columns <= _SIZE_LIMIT):
            raise ValueError(f"a window has 1 to {_SIZE_LIMIT} rows and columns, not {self.rows} by {self.columns}")


DEFAULT_SIZE = WindowSize(rows=40, columns=120)


def terminal_size(environment: Mapping[str, str] = os.environ) -> WindowSize | None:
    """Returns the size that LINES and COLUMNS tell, else that of our own terminal; None if there is neither."""
    rows, columns = (environment.get(name, "") for name in ("LINES", "COLUMNS"))
    if rows.isdecimal() and columns.isdecimal() and 0 < int(rows) <= _SIZE_LIMIT and 0 < int(columns) <= _SIZE_LIMIT:
        return WindowSize(int(rows), int(columns))
    for descriptor in (1, 2, 0):
        try:
            size = os.get_terminal_size(descriptor)
        except OSError:
            continue  # not a terminal, or closed
        if size.lines and size.columns:
            return WindowSize(size.lines, size.columns)
    return None


class Terminal:
    """A new pseudo-terminal; reading and writing its `master` never blocks."""

    def __init__(self, size: WindowSize, *, echo: bool) -> None:
        """Opens it with the usual settings of a terminal; without `echo`, what is typed is not printed.

        Raises OSError if the system has no terminal or descriptor left.
        """
        self.master, slave = pty.openpty()
        self._slave: int | None = slave
        try:
            self.name = os.ttyname(slave)
            os.set_blocking(self.master, False)
            self.resize(size)
            if not echo:
                settings = termios.tcgetattr(slave)
                settings[3] &= ~termios.ECHO
                termios.tcsetattr(slave, termios.TCSANOW, settings)
        except BaseException:  # nobody else knows the descriptors yet
            self.close()
            raise

    def resize(self, size: WindowSize) -> None:
        """Sets the window size; the kernel tells the command (SIGWINCH). Without effect once closed."""
        if self.master >= 0:
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", size.rows, size.columns, 0, 0))

    def release(self) -> None:
        """Closes our copy of the command's side: reading ends when no other process holds it."""
        if self._slave is not None:
            os.close(self._slave)
            self._slave = None

    def close(self) -> None:
        """Closes both sides; the kernel sends SIGHUP to what still runs on the terminal."""
        self.release()
        if self.master >= 0:
            os.close(self.master)
            self.master = -1
