"""The folder of all spools of one user: made, listed and taken here; each spool has one owner at a time.

Used by `deploy` and `spool`. A spool is a folder `deployment-ID` with files and a lock, which ends with the process
that holds it. Invariant: a spool that a living process owns is left alone by everybody else.
"""

import os
import re
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from backend.app.runner.spool import Head, State
from backend.app.runner.spool_files import files_of, remove_folder
from backend.app.runner.spool_store import Spool, SpoolDamaged, scan

PREFIX = "deployment-"
LOCK = "lock"
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
LOCK_SECONDS = 0.2
"""Longer than the moment for which `look` owns a spool."""
HIDDEN_SECONDS = 60.0
"""A hidden folder of that age is the rest of a process that was killed while it made or removed a spool."""


class SpoolTaken(Exception):
    """A living process owns it, or one of this id is there already."""


class SpoolMissing(Exception):
    """There is no spool of this id."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What is known of a spool without owning it. `head` and `state` are None where nothing can be read."""

    deployment_id: str
    folder: Path
    size: int
    is_owned: bool
    head: Head | None
    state: State | None
    lines: int
    """Lines that the server has not confirmed."""


def default_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the user's folder of spools: `WINDFLOW_SPOOL_DIR`, else the platform's place for a program's state."""
    given = environment.get("WINDFLOW_SPOOL_DIR")
    if given:
        return Path(given).absolute()
    from platformdirs import user_state_path

    return user_state_path("windflow", appauthor=False) / "spool"


def is_deployment_id(text: str) -> bool:
    """Tell whether a server would take this as an id, and a folder can be named after it."""
    return _ID.fullmatch(text) is not None


class SpoolFolder:
    """The spools below one folder. Nothing is made before the first spool."""

    def __init__(self, path: Path, most_bytes: int) -> None:
        self.path = path
        self._most_bytes = most_bytes

    def create(self, head: Head) -> Spool:
        """Make a spool and own it. Raises SpoolTaken if there is one of this deployment, and OSError."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = self._folder(head.deployment_id)
        # Made out of sight, and owned before it is seen: nobody takes it in between.
        hidden = self.path / f".new-{folder.name}-{os.getpid()}-{time.monotonic_ns()}"
        hidden.mkdir(mode=0o700)
        lock = _lock(hidden)
        try:
            spool = Spool(hidden, lock, head, State(), 1, most_bytes=self._most_bytes)
        except BaseException:
            lock.release()
            shutil.rmtree(hidden, ignore_errors=True)
            raise
        try:
            if folder.exists():
                raise FileExistsError(folder)
            hidden.rename(folder)
        except OSError as error:
            spool.remove()
            if folder.exists():
                raise SpoolTaken(f"a spool of deployment {head.deployment_id} is there already") from error
            raise
        spool.moved(folder)
        return spool

    def ids(self) -> list[str]:
        """Return the deployments that have a spool, the oldest first; remove what killed processes left half-made."""
        found: list[tuple[float, str]] = []
        with suppress(FileNotFoundError):
            for entry in os.scandir(self.path):
                with suppress(FileNotFoundError):
                    changed = entry.stat().st_mtime
                    if entry.name.startswith((".new-", ".gone-")):
                        if time.time() - changed > HIDDEN_SECONDS and not _is_held(Path(entry.path)):
                            shutil.rmtree(entry.path, ignore_errors=True)
                    elif entry.name.startswith(PREFIX) and entry.is_dir():
                        found.append((_made(Path(entry.path), changed), entry.name.removeprefix(PREFIX)))
        return [deployment_id for _, deployment_id in sorted(found)]

    def take(self, deployment_id: str) -> Spool:
        """Own a spool whose runner has ended. Raises SpoolTaken, SpoolMissing, SpoolDamaged and OSError."""
        folder = self._folder(deployment_id)
        if not folder.is_dir():
            raise SpoolMissing(deployment_id)
        lock = _lock(folder, LOCK_SECONDS)
        try:
            if not files_of(folder):  # its owner removed it while the lock was waited for
                raise SpoolMissing(deployment_id)
            head, state, next_line = scan(folder)
            spool = Spool(folder, lock, head, state, next_line, most_bytes=self._most_bytes)
            spool.is_final = True
            return spool
        except FileNotFoundError as error:
            lock.release()
            raise SpoolMissing(deployment_id) from error
        except BaseException:
            lock.release()
            raise

    def drop(self, deployment_id: str) -> None:
        """Delete a spool, readable or not. Raises SpoolTaken, SpoolMissing and OSError."""
        folder = self._folder(deployment_id)
        if not folder.is_dir():
            raise SpoolMissing(deployment_id)
        lock = _lock(folder, LOCK_SECONDS)
        try:
            remove_folder(folder)
        finally:
            lock.release()

    def look(self, deployment_id: str) -> Kept:
        """Return what is kept, also while somebody owns it. Raises SpoolMissing and OSError."""
        folder = self._folder(deployment_id)
        try:
            size = sum(file.size for file in files_of(folder))
            is_owned = _is_held(folder)
            head, state, next_line = scan(folder)
        except FileNotFoundError as error:
            raise SpoolMissing(deployment_id) from error
        except SpoolDamaged:
            return Kept(deployment_id, folder, size, is_owned, None, None, 0)
        lines = max(0, next_line - state.next_line - state.missing)
        return Kept(deployment_id, folder, size, is_owned, head, state, lines)

    def _folder(self, deployment_id: str) -> Path:
        return self.path / f"{PREFIX}{deployment_id}"


def _lock(folder: Path, seconds: float = 0.0) -> BaseFileLock:
    lock = FileLock(folder / LOCK, timeout=seconds, thread_local=False, mode=0o600)
    try:
        lock.acquire()
    except Timeout as error:
        raise SpoolTaken(folder.name.removeprefix(PREFIX)) from error
    return lock


def _is_held(folder: Path) -> bool:
    """Tell whether a living process owns a spool. It is owned for a moment to find that out."""
    try:
        _lock(folder).release()
    except SpoolTaken:
        return True
    return False


def _made(folder: Path, otherwise: float) -> float:
    """Return when a spool was made: its lock's file is as old as it and never written."""
    try:
        return (folder / LOCK).stat().st_mtime
    except OSError:
        return otherwise
