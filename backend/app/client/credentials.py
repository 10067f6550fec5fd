"""Credentials on disk: one file per server address in the user's config folder, mode 0600.

Written by `login` and by token refreshes, read by every command. A write replaces the file
atomically; who refreshes holds `lock()`, because a refresh token works once.
"""

import contextlib
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import AsyncFileLock, BaseAsyncFileLock

from backend.app.client.errors import ClientError

LOCK_TIMEOUT_SECONDS = 30.0
"""Longest wait for another process that refreshes: its request and all its retries end before that."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one login left: an access token with its end (Unix seconds) and the token that renews it.

    An API token stands alone: no refresh token and no known end.
    """

    access_token: str
    username: str | None = None
    refresh_token: str | None = None
    expires_at: float | None = None
    lifetime_seconds: float | None = None

    @classmethod
    def from_answer(
        cls, answer: Mapping[str, Any], username: str | None, clock: Callable[[], float] = time.time
    ) -> "Credentials":
        """Make credentials from a login or refresh answer; its `expires_in` counts from now."""
        lifetime = float(answer["expires_in"])
        return cls(
            access_token=str(answer["access_token"]),
            username=username,
            refresh_token=str(answer["refresh_token"]),
            expires_at=clock() + lifetime,
            lifetime_seconds=lifetime,
        )

    def is_ending(self, now: float) -> bool:
        """Tell whether it is time to refresh: the last tenth of the life, at most its last 30 s."""
        if self.expires_at is None:
            return False
        return now >= self.expires_at - min(30.0, (self.lifetime_seconds or 300.0) / 10)


def config_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of the client's files: `WINDFLOW_CONFIG_DIR`, else the platform's place for it."""
    given = environment.get("WINDFLOW_CONFIG_DIR")
    if given:
        return Path(given)
    from platformdirs import user_config_path

    return user_config_path("windflow", appauthor=False)


class CredentialStore:
    """The credentials files below one folder. Nothing is created before the first write."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, server_url: str) -> Path:
        """Return the file of a server: readable name, made unique by a hash of the address."""
        name = re.sub(r"[^A-Za-z0-9.-]+", "_", server_url.split("://", 1)[-1])[:80]
        digest = hashlib.sha256(server_url.encode()).hexdigest()[:8]
        return self._folder / "credentials" / f"{name}-{digest}.json"

    def read(self, server_url: str) -> Credentials | None:
        """Return the credentials for a server or None; raise ClientError for a file that cannot be read."""
        path = self.path(server_url)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return Credentials(**content["credentials"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ClientError(f"cannot read the credentials file {path}: {error}") from error

    def write(self, server_url: str, credentials: Credentials) -> None:
        """Replace the credentials for a server; a crash leaves the old or the new file, never half of one."""
        content = {"server": server_url, "credentials": asdict(credentials)}
        self._replace(self.path(server_url), json.dumps(content, indent=2) + "\n")

    def remove(self, server_url: str) -> bool:
        """Forget a server's credentials; tell whether there were any."""
        try:
            self.path(server_url).unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise ClientError(f"cannot remove the credentials file: {error}") from error
        return True

    def default_server(self) -> str | None:
        """Return the server of the last login, which commands use when none is named."""
        try:
            return (self._folder / "server").read_text(encoding="utf-8").strip() or None
        except OSError:
            return None

    def set_default_server(self, server_url: str) -> None:
        """Make a server the one that commands use when none is named."""
        self._replace(self._folder / "server", server_url + "\n")

    def lock(self, server_url: str) -> BaseAsyncFileLock:
        """Return the lock (an async context manager) under which a server's tokens are renewed."""
        path = self.path(server_url).with_suffix(".lock")
        self._make_folder(path.parent)
        return AsyncFileLock(path, timeout=LOCK_TIMEOUT_SECONDS, mode=0o600)

    @staticmethod
    def _make_folder(folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ClientError(f"cannot make the config folder {folder}: {error}") from error

    def _replace(self, path: Path, text: str) -> None:
        self._make_folder(path.parent)
        temporary: str | None = None
        try:
            # mkstemp makes the file 0600, so that the secret is never readable by others, not even briefly.
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            if temporary is not None:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
            raise ClientError(f"cannot write {path}: {error}") from error
