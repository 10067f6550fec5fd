"""Passwords: rules for new ones, argon2id hashing and checking off the event loop.

`Passwords` is shared by everything that hashes in one process, so that the slots bound its
memory (64 MiB each) and processors. Checking against no hash at all takes as long as against
a real one: an unknown user cannot be told from a wrong password.
"""

import asyncio
import base64
import os
import secrets
import unicodedata
from collections.abc import Callable
from typing import TypeVar

import argon2
from pwdlib import PasswordHash

from backend.app.schemas.errors import ErrorCode, WindFlowError, field_error

T = TypeVar("T")

MAX_LENGTH = 1024
"""Most characters of a password: more adds nothing, and hashing it costs."""
_LEAST_DIFFERENT = 5
_WELL_KNOWN = ("1234567890", "0987654321", "qwertyuiop", "password", "letmein", "iloveyou", "administrator", "windflow")
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
"""For generated passwords: nothing that looks like something else."""


def generate_password() -> str:
    """Return a new random password that people can type: four groups of five, 99 bits."""
    return "-".join("".join(secrets.choice(_ALPHABET) for _ in range(5)) for _ in range(4))


def check_new_password(password: str, username: str, min_length: int, field: str = "password") -> None:
    """Raise `weak_password`, naming the field and the rule, when a new password is too short or too simple."""
    rule = _broken_rule(unicodedata.normalize("NFC", password), username, min_length)
    if rule is not None:
        raise field_error(ErrorCode.WEAK_PASSWORD, field, rule)


def _broken_rule(password: str, username: str, min_length: int) -> str | None:
    if len(password) < min_length:
        return f"at least {min_length} characters"
    if len(password) > MAX_LENGTH:
        return f"at most {MAX_LENGTH} characters"
    if len(set(password)) < _LEAST_DIFFERENT:
        return f"at least {_LEAST_DIFFERENT} different characters"
    remaining = password.casefold()
    for known in (username.casefold(), *_WELL_KNOWN):
        remaining = remaining.replace(known, "") if known else remaining
    if len(remaining) < min(min_length, _LEAST_DIFFERENT):
        return "not the user name or a well-known password with little added"
    return None


def _impossible_hash() -> str:
    """Return a hash of the current cost that no password has, without spending the time to make one."""

    def encode(size: int) -> str:
        return base64.b64encode(os.urandom(size)).decode().rstrip("=")

    cost = f"m={argon2.DEFAULT_MEMORY_COST},t={argon2.DEFAULT_TIME_COST},p={argon2.DEFAULT_PARALLELISM}"
    salt, digest = encode(argon2.DEFAULT_RANDOM_SALT_LENGTH), encode(argon2.DEFAULT_HASH_LENGTH)
    return f"$argon2id$v=19${cost}${salt}${digest}"


class Passwords:
    """Hashes and checks passwords in threads, `slots` at a time (default: one per processor)."""

    def __init__(self, slots: int | None = None, max_waiting: int = 1_000) -> None:
        self._slots = asyncio.Semaphore(slots or os.cpu_count() or 1)
        self._max_waiting = max_waiting
        self._waiting = 0
        self._hasher = PasswordHash.recommended()
        self._impossible = _impossible_hash()

    async def hash(self, password: str) -> str:
        """Return the hash to store; raise `rate_limited` when too many wait."""
        return await self._in_thread(lambda: self._hasher.hash(unicodedata.normalize("NFC", password)))

    async def verify(self, password: str, stored: str | None) -> bool:
        """Tell whether a password has this hash; always one argon2 run, also for None (there is no such user).

        Raise `rate_limited` when too many wait.
        """
        if len(password) > MAX_LENGTH:
            password, stored = "", None
        normal = unicodedata.normalize("NFC", password)
        return await self._in_thread(lambda: self._hasher.verify(normal, stored or self._impossible))

    async def _in_thread(self, run: Callable[[], T]) -> T:
        if self._waiting >= self._max_waiting:
            raise WindFlowError(ErrorCode.RATE_LIMITED, "too many logins at once", retry_after_seconds=1)
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        # A cancelled caller cannot stop its thread: the slot is given back when that ends, not before.
        running = asyncio.ensure_future(asyncio.to_thread(run))
        running.add_done_callback(self._ended)
        return await asyncio.shield(running)

    def _ended(self, running: "asyncio.Future[T]") -> None:
        self._slots.release()
        if not running.cancelled():
            running.exception()  # mark as retrieved: the caller may be gone
