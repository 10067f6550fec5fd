"""Looks, every now and then, whether the database is further than what was handed on here (R5, R18).

What another program or node committed, and what a lost message would have told, is found here: streams are
read from the log, followers of logs fall back to theirs, newer values are delivered. `main` calls it periodically.
"""

from collections.abc import Mapping
from datetime import timedelta

from backend.app.database import Database
from backend.app.models.columns import now
from backend.app.realtime import event_log
from backend.app.realtime.bus import Bus
from backend.app.realtime.event_log import Position
from backend.app.realtime.hub import Hub
from backend.app.realtime.lost_streams import tell_followers
from backend.app.realtime.marks import log_source
from backend.app.realtime.resume import LostReason
from backend.app.schemas.event_spec import EventSpec

_VALUES_AT_ONCE = 1_000


class HeadPoll:
    """Compares the heads of a node with the database."""

    def __init__(
        self,
        database: Database,
        catalogue: Mapping[str, EventSpec],
        bus: Bus,
        hub: Hub,
        *,
        poll_seconds: float,
        late_lines_seconds: float,
    ) -> None:
        self._database = database
        self._catalogue = catalogue
        self._bus = bus
        self._hub = hub
        self._poll_seconds = poll_seconds
        self._late_lines_seconds = late_lines_seconds
        self._seen: dict[str, int] = {}
        """What the last look saw ahead. A commit of this node is handed on right after it: what is still ahead at the
        next look came from somebody else."""

    async def look(self) -> int:
        """Compare once; return how many streams and logs were behind. Raises what the database raises."""
        since = now() - timedelta(seconds=self._poll_seconds * 3)
        async with self._database.session() as session:
            streams = await event_log.heads(session)
            logs = await event_log.open_logs(session, self._late_lines_seconds)
            values = await event_log.latest_since(session, since, _VALUES_AT_ONCE, self._catalogue)
        seen, self._seen = self._seen, {}
        behind = sum([self._compare_stream(stream, position, seen) for stream, position in streams.items()])
        behind += sum([self._compare_log(*log, seen) for log in logs])
        for value in values:
            self._hub.deliver(value)  # It drops what is not newer than what it has.
        return behind

    def _compare_stream(self, stream: str, position: Position, seen: Mapping[str, int]) -> bool:
        known = self._hub.heads.position(stream)
        if known is None:
            return False  # Learned when somebody follows it.
        if position.epoch != known.epoch:
            # It begins anew: what comes now must not look as if it had been delivered (R18).
            self._bus.reset(stream, position.offset)
            tell_followers(self._hub, LostReason.EPOCH, stream, position)
            return True
        if not self._is_still_ahead(stream, known.offset, position.offset, seen):
            return False
        self._bus.read_up_to(stream, position.offset)
        return True

    def _compare_log(self, deployment_id: str, organization_id: str, last: int, seen: Mapping[str, int]) -> bool:
        source = log_source(deployment_id)
        known = self._hub.heads.head(source)
        if known is None:
            if seen.get(source) == last:
                self._hub.heads.learn_lines(deployment_id, last)
            else:
                self._seen[source] = last  # Its last lines may be about to be handed on.
            return False
        if not self._is_still_ahead(source, known, last, seen):
            return False
        self._hub.lines_were_added(organization_id, deployment_id, last)
        return True

    def _is_still_ahead(self, source: str, known: int, stored: int, seen: Mapping[str, int]) -> bool:
        if stored <= known:
            return False
        self._seen[source] = stored
        return known < seen.get(source, 0)
