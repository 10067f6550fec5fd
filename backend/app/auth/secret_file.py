"""The signing secret on disk: made once, readable by the server's user alone.

Called by the composition root before anything listens. Nodes that share a PostgreSQL database
share the file too (`WINDFLOW_SECRET_FILE`): a token signed by one must be valid on all.
"""

import hmac
import logging
import os
import secrets
import stat
from pathlib import Path

from backend.app.auth.tokens import MIN_SECRET_BYTES
from backend.app.config import Settings

logger = logging.getLogger("windflow.auth")

_NEW_BYTES = 48


def load_or_create_secret(settings: Settings) -> bytes:
    """Return the secret, making its file (mode 0600) when there is none; two processes at once get the same one.

    Warns when others may read the file. Raise ValueError when it holds less than 32 bytes, OSError
    when it cannot be read or written.
    """
    path = settings.secret_file or settings.data_dir / "secret.key"
    if not path.exists():
        _create(path)
    secret = path.read_bytes().strip()
    if len(secret) < MIN_SECRET_BYTES:
        raise ValueError(f"WINDFLOW_SECRET_FILE: {path} holds {len(secret)} bytes, at least {MIN_SECRET_BYTES} needed")
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        logger.warning("the secret file %s can be read by others: chmod 600 it", path)
    return secret


def derived(secret: bytes, purpose: str) -> bytes:
    """Return a key for another purpose than signing tokens, made of the secret; it tells nothing about it."""
    return hmac.digest(secret, f"windflow {purpose}".encode(), "sha256")


def _create(path: Path) -> None:
    """Write a new secret beside the path and give it its name only when complete; no-op if another process did."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_urlsafe(_NEW_BYTES).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        # A link, not a rename: it never replaces the secret that another process made meanwhile.
        os.link(draft, path)
    except FileExistsError:
        return
    finally:
        draft.unlink()
