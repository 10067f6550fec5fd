"""Child processes of a measurement: pinned to a core, heard line by line, always ended.

Invariant: a child that says nothing in time, or anything but JSON, is an error that holds what it wrote.
"""

import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.failure import BenchmarkError

STOP_SECONDS = 40.0


class Child:
    """One process that prints lines of JSON on its standard output."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        core: int | None = None,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        """Start it; its standard error goes to a file in `folder`, or to nowhere.

        `core` is the one it may run on, from its first instruction on: None lets the system choose.
        """
        self.name = name
        self._log = folder / f"{name}.log" if folder else None
        errors = self._log.open("ab") if self._log else None
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors or subprocess.DEVNULL,
                env=environment,
                cwd=folder,
                bufsize=0,
            )
        except OSError as error:
            raise BenchmarkError(f"{name} does not start: {error}") from error
        finally:
            if errors:
                errors.close()
        if core is not None:
            # Threads that come later inherit it; nothing has been started yet.
            os.sched_setaffinity(self.process.pid, {core})
        self._selector = selectors.DefaultSelector()
        assert self.process.stdout is not None
        self._selector.register(self.process.stdout, selectors.EVENT_READ)
        self._heard = b""

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def say(self, line: str) -> None:
        """Write a line to its standard input; raise BenchmarkError when it is gone."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line.encode() + b"\n")
        except BrokenPipeError:
            raise BenchmarkError(f"{self.name} is gone{self._wrote()}") from None

    def hear(self, seconds: float) -> dict[str, Any]:
        """Return the next line, which must come in so many seconds; raise BenchmarkError for an `error` in it."""
        deadline = time.monotonic() + seconds
        assert self.process.stdout is not None
        while b"\n" not in self._heard:
            left = deadline - time.monotonic()
            if left <= 0 or not self._selector.select(left):
                raise BenchmarkError(f"{self.name} said nothing for {seconds:g} seconds{self._wrote()}")
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                raise BenchmarkError(f"{self.name} ended{self._wrote()}")
            self._heard += data
        line, _, self._heard = self._heard.partition(b"\n")
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            raise BenchmarkError(f"{self.name} said {line!r}{self._wrote()}") from None
        if "error" in answer:
            raise BenchmarkError(f"{self.name}: {answer['error']}{self._wrote()}")
        return answer

    def stop(self) -> None:
        """End it: SIGTERM, and SIGKILL for what does not end."""
        self._selector.close()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def resident_kib(self) -> int:
        """Return the memory that it holds (KiB)."""
        for line in Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise BenchmarkError(f"{self.name} is gone{self._wrote()}")

    def _wrote(self) -> str:
        if self._log is None or not self._log.exists():
            return ""
        text = self._log.read_text(encoding="utf-8", errors="replace").strip()
        return f"; it wrote:\n{text[-2000:]}" if text else ""
