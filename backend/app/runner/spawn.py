"""Starts a program in a session of its own, without running any of our code between fork and exec.

Owns finding the program and what its start can fail with, told as a shell tells it; called by `process.py`.
`posix_spawn` instead of `preexec_fn`: forking a process that has threads (a live display has one) is not safe.
Invariant: either a process runs and its pid is returned, or CommandNotStartable is raised and nothing is left.
"""

import errno
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

NOT_EXECUTABLE = 126
NOT_FOUND = 127

FileAction = tuple[Any, ...]
"""One of `(os.POSIX_SPAWN_OPEN, fd, path, flags, mode)` and `(os.POSIX_SPAWN_DUP2, fd, new_fd)`."""


class CommandNotStartable(Exception):
    """The command could not be started; `exit_code` is what a shell would end with: 126 or 127."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.message = message


def spawn(
    argv: Sequence[str], *, environment: Mapping[str, str], cwd: str | None, file_actions: Sequence[FileAction]
) -> int:
    """Starts the program as leader of a new session and process group and returns its pid.

    The file actions run inside the new session: the first terminal opened becomes its controlling terminal. With
    `cwd` the whole process stands in that folder for the few milliseconds of the start (there is no other way
    without forking), so relative paths used by other threads at that moment go wrong. Descriptors that were handed to
    us as inheritable (the `<(…)` of a shell) reach the program, ours do not. Blocks until the program is executed.
    Raises CommandNotStartable: 127 if it does not exist, 126 for everything else.
    """
    with _standing_in(cwd):
        path = _find_program(argv[0], environment.get("PATH", os.defpath))
        try:
            return os.posix_spawn(
                path,
                list(argv),
                dict(environment),
                file_actions=file_actions,
                setsid=True,
                setsigmask=(),
                # Python ignores these two; an ignored signal would stay ignored in the command.
                setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
            )
        except OSError as error:
            raise _not_startable(path, error) from error


@contextmanager
def _standing_in(folder: str | None) -> Iterator[None]:
    if folder is None:
        yield
        return
    before = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            os.chdir(folder)
        except OSError as error:
            raise CommandNotStartable(NOT_EXECUTABLE, f"{folder}: cannot be entered: {error.strerror}") from error
        try:
            yield
        finally:
            os.fchdir(before)
    finally:
        os.close(before)


def _find_program(name: str, search_path: str) -> str:
    if "/" in name:
        return name
    found_unusable = None
    for folder in search_path.split(os.pathsep) if name else ():
        path = os.path.join(folder or ".", name)
        if os.path.isfile(path):
            if os.access(path, os.X_OK):
                return path
            found_unusable = found_unusable or path
    if found_unusable is not None:
        raise CommandNotStartable(NOT_EXECUTABLE, f"{found_unusable}: not executable")
    raise CommandNotStartable(NOT_FOUND, f"{name or repr(name)}: command not found")


def _not_startable(path: str, error: OSError) -> CommandNotStartable:
    if error.errno == errno.ENOENT and not os.path.exists(path):
        return CommandNotStartable(NOT_FOUND, f"{path}: no such file")
    if error.errno == errno.ENOENT:
        reason = "the interpreter named in its first line does not exist"
    elif error.errno == errno.ENOEXEC:
        reason = "neither a program nor a script with an interpreter (#!) in its first line"
    elif os.path.isdir(path):
        reason = "is a folder"
    else:
        reason = os.strerror(error.errno or 0)
    return CommandNotStartable(NOT_EXECUTABLE, f"{path}: {reason}")
