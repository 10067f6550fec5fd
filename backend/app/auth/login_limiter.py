"""Slows password guessing down: so many failures per account and per address in a window.

Asked by `LoginGate` before and after each attempt; pure, with a clock of its own. Attempts
that still run count as if they had failed, so that many at once guess no more than the limit.
The tables are per process and bounded: the keys that were used longest ago are forgotten.
"""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Tries:
    failures: list[float] = field(default_factory=list)
    """When, oldest first; never more than the limit."""
    running: int = 0


def login_keys(username: str, address: str | None, place: str | None = None) -> tuple[str, ...]:
    """Return what an attempt is counted under: the account, and the address (IPv6: its /64 network).

    With a place where the account's owner was before, the account is counted there by itself: who guesses
    elsewhere does not lock the owner out.
    """
    account = f"account {username.lower()[:128]}" + (f" at {place}" if place is not None else "")
    return (account,) if address is None else (account, f"address {network(address)}")


def network(address: str) -> str:
    """Return what of an address tells one guesser from another: for IPv6 its /64 network."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))


class LoginLimiter:
    """Counts failed and running attempts per key; not for use from several threads."""

    def __init__(
        self,
        failures: int,
        window_seconds: float,
        *,
        max_keys: int = 20_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = failures
        self._window_seconds = window_seconds
        self._max_keys = max_keys
        self._clock = clock
        self._tries: OrderedDict[str, _Tries] = OrderedDict()

    def retry_after_seconds(self, keys: Sequence[str]) -> float:
        """Return how long until an attempt is allowed; 0 when none of the keys failed too often."""
        moment = self._clock()
        longest = 0.0
        for key in keys:
            failures = self._recent(key, moment).failures
            if len(failures) >= self._limit:
                longest = max(longest, failures[0] + self._window_seconds - moment)
        return longest

    def begin(self, keys: Sequence[str]) -> bool:
        """Count a running attempt; False, with nothing counted, while failures and running ones reach the limit."""
        moment = self._clock()
        tries = [self._recent(key, moment) for key in keys]
        if any(len(each.failures) + each.running >= self._limit for each in tries):
            return False
        for key, each in zip(keys, tries, strict=True):
            each.running += 1
            self._tries[key] = each
            self._tries.move_to_end(key)
        self._forget_oldest()
        return True

    def end(self, keys: Sequence[str], *, is_failure: bool, is_success: bool) -> None:
        """End a running attempt. A success forgets the failures of the account (the first key), not the address's."""
        moment = self._clock()
        for place, key in enumerate(keys):
            each = self._recent(key, moment)
            each.running = max(0, each.running - 1)
            if is_failure:
                each.failures = [*each.failures, moment][-self._limit :]
            elif is_success and place == 0:
                each.failures = []
            if each.failures or each.running:
                self._tries[key] = each
            else:
                self._tries.pop(key, None)

    def _recent(self, key: str, moment: float) -> _Tries:
        tries = self._tries.get(key)
        if tries is None:
            return _Tries()
        tries.failures = [at for at in tries.failures if at > moment - self._window_seconds]
        return tries

    def _forget_oldest(self) -> None:
        while len(self._tries) > self._max_keys:
            self._tries.popitem(last=False)
