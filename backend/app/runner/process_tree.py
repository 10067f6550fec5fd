"""Finds and signals everything a command started, also what left its process group, session or parent.

Called by `process.py` to stop a command. Linux: read from /proc; elsewhere only the process group is known.
Invariants: never a signal to a process that merely got the pid of a former one; never one to ourselves.
"""

import os
import signal
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

MARKER = "_WINDFLOW_RUN"
"""The environment variable by which a process is known that forked twice and changed its session: it is inherited. A
daemon that is to outlive a cancelled command is started without it."""

_DEAD = frozenset("ZXx")


@dataclass(frozen=True, slots=True)
class _Process:
    """One process as /proc/PID/stat tells it; pid and start time together mean one process for ever."""

    pid: int
    state: str
    parent: int
    group: int
    session: int
    started: int


class ProcessTree:
    """The processes of one command.

    Its leader's pid must not have been given back (see `ExitWatch`) as long as this is used.
    """

    def __init__(self) -> None:
        self._leader = 0
        self._mark = uuid.uuid4().hex
        self._known: dict[int, _Process] = {}

    @property
    def environment(self) -> dict[str, str]:
        """What the command's environment must hold in addition."""
        return {MARKER: self._mark}

    def started(self, leader: int) -> None:
        """Tells the pid of the command, which leads its session and process group."""
        self._leader = leader

    def find(self) -> tuple[int, ...]:
        """Looks through all processes of the machine and returns the pids of those that live and are the command's.

        What it finds stays known for later calls, so losing its parent does not hide it. Takes some milliseconds.
        """
        processes = {process.pid: process for process in _all_processes()}
        members = {
            pid
            for pid, process in processes.items()
            if process.session == self._leader or self._is_known(process) or self._is_marked(pid)
        }
        members |= _descendants(members, processes.values())
        members.discard(os.getpid())
        self._known = {pid: processes[pid] for pid in members if processes[pid].state not in _DEAD}
        return tuple(sorted(self._known))

    def remaining(self) -> tuple[int, ...]:
        """Returns those found before that still live; much cheaper than `find`."""
        current = {pid: _read_process(pid) for pid in self._known}
        return tuple(
            pid
            for pid, process in current.items()
            if process is not None and process.state not in _DEAD and self._is_known(process)
        )

    def send(self, number: signal.Signals) -> None:
        """Sends the signal to the whole process group at once, then to each process found outside of it.

        What has ended meanwhile, or belongs to another user and may not be signalled, is passed over.
        """
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._leader, number)
        for process in self._known.values():
            if process.group != self._leader:
                _send_to(process, number)

    def _is_known(self, process: _Process) -> bool:
        known = self._known.get(process.pid)
        return known is not None and known.started == process.started

    def _is_marked(self, pid: int) -> bool:
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                return f"{MARKER}={self._mark}".encode() in file.read().split(b"\0")
        except OSError:
            return False  # ended, or another user's


def _send_to(process: _Process, number: signal.Signals) -> None:
    descriptor: int | None = None
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    except OSError:
        pass  # a sandbox without it: the check below leaves a gap of microseconds
    try:
        # The descriptor names one process for good; the start time says that it is still the one we found.
        now = _read_process(process.pid)
        if now is None or now.started != process.started:
            return
        if descriptor is None:
            os.kill(process.pid, number)
        else:
            signal.pidfd_send_signal(descriptor, number)
    except (ProcessLookupError, PermissionError):
        pass
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _descendants(members: set[int], processes: Iterable[_Process]) -> set[int]:
    children: dict[int, list[int]] = {}
    for process in processes:
        children.setdefault(process.parent, []).append(process.pid)
    found: set[int] = set()
    to_visit = list(members)
    while to_visit:
        for child in children.get(to_visit.pop(), ()):
            if child not in found:
                found.add(child)
                to_visit.append(child)
    return found


def _all_processes() -> list[_Process]:
    try:
        names = os.listdir("/proc")
    except OSError:
        return []  # not Linux
    processes = (_read_process(int(name)) for name in names if name.isdecimal())
    return [process for process in processes if process is not None]


def _read_process(pid: int) -> _Process | None:
    """Returns the process; None if there is none with this pid."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except OSError:
        return None
    # The second field is the program's name in parentheses, which may hold spaces and parentheses itself.
    state, parent, group, session, *rest = stat[stat.rindex(b")") + 2 :].split()
    return _Process(pid, state.decode(), int(parent), int(group), int(session), int(rest[15]))
