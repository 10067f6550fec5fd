"""What a connecting client and this server find out about each other's contracts. Used by the socket's endpoint."""

from collections.abc import Mapping
from typing import Any

from backend.app.contract.hashes import contract_hashes
from backend.app.schemas.event_spec import EventCatalogue, EventSpec


class ServerContract:
    """The fingerprints of a catalogue that plugins come to and leave, computed anew only when it changed."""

    def __init__(self, catalogue: EventCatalogue) -> None:
        self._catalogue = catalogue
        self._specs: tuple[EventSpec, ...] = ()
        self._hashes: dict[str, str] = {}

    def welcome(self, given: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return what the answer to `auth` says: every fingerprint, and which of a client's differ, if any do.

        A name that this server does not know differs, too; one that the client does not name is not compared.
        """
        specs = tuple(self._catalogue.values())
        if specs != self._specs:
            self._specs, self._hashes = specs, contract_hashes(self._catalogue)
        unlike = sorted(name for name, digest in (given or {}).items() if self._hashes.get(name) != digest)
        return {"contract": dict(self._hashes), **({"contractMismatch": unlike} if unlike else {})}
