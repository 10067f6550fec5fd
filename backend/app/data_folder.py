"""The lock on the data folder: one server at a time. Taken by `main` for as long as the server runs."""

from pathlib import Path

from filelock import FileLock, Timeout


class DataFolderInUse(Exception):
    """Another server runs on the same data folder."""


class DataFolderLock:
    """Use with `with`: makes the folder, and raises `DataFolderInUse` where another process holds it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._lock = FileLock(folder / ".lock", timeout=0)

    def __enter__(self) -> None:
        try:
            self._lock.acquire()
        except Timeout:
            raise DataFolderInUse(f"another server runs on the data folder {self._folder}") from None

    def __exit__(self, *_: object) -> None:
        self._lock.release()
