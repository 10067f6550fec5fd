"""The one way for clients, the API and plugins to publish an event of any type.

Checks type, sender, hops, payload and audience; then types with a state of their own (lines,
progress, notifications) go through the operation that keeps that state, all others to the log.
What the server's own operations publish comes from their units of work instead.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from sqlalchemy import select

from backend.app.auth.permissions import SYSTEM_ID, Caller, may_send
from backend.app.config import Settings
from backend.app.database import Database, Transaction
from backend.app.models import EventRecord, Organization
from backend.app.models.columns import now
from backend.app.operations.deployment_logs import lines_of
from backend.app.operations.deployment_rows import find_locked
from backend.app.operations.deployments import Deployments
from backend.app.operations.idempotency import once
from backend.app.operations.notifications import Notifications, user_in
from backend.app.operations.stored_text import is_storable
from backend.app.realtime.event import Event, check_payload, new_event
from backend.app.realtime.unit_of_work import AuditEntry, publish
from backend.app.schemas.errors import ErrorCode, WindFlowError, field_error, not_found
from backend.app.schemas.event_spec import Audience, Delivery, EventCatalogue, EventSpec, Payload, Sender
from backend.app.schemas.times import wire_time
from backend.app.schemas.websocket_events import (
    DeploymentLogsUpdate,
    DeploymentProgress,
    NotificationRead,
    NotificationSent,
)

PushRaw = Callable[[str, str, Mapping[str, Any]], object]
"""Sends a message as it is to all sockets of a user (user id, organization id, message)."""


class _Own:
    """Stands for: the caller's own organization."""


OWN: Final = _Own()


@dataclass(frozen=True, slots=True)
class Published:
    """What was published: `id` is None where nothing was left to tell; stream and offset only in the log."""

    id: str | None = None
    stream: str | None = None
    offset: int | None = None

    def wire(self) -> dict[str, Any]:
        """Return it as it crosses the wire."""
        place = {} if self.offset is None else {"stream": self.stream, "offset": self.offset}
        return {"id": self.id, **place}


@dataclass(frozen=True, slots=True)
class _Act:
    """One checked publish."""

    caller: Caller
    spec: EventSpec
    payload: Payload
    organization_id: str | None
    user_id: str | None


class Events:
    """Publishes. `hand_on` takes an event that is kept nowhere straight to delivery."""

    def __init__(
        self,
        db: Database,
        settings: Settings,
        catalogue: EventCatalogue,
        hand_on: Callable[[Event], None],
        deployments: Deployments,
        notifications: Notifications,
        push_raw: PushRaw,
    ) -> None:
        self._db = db
        self._settings = settings
        self._catalogue = catalogue
        self._hand_on = hand_on
        self._deployments = deployments
        self._notifications = notifications
        self._push_raw = push_raw
        self._by_type: Mapping[str, Callable[[Transaction, _Act], Event | None]] = {
            "NOTIFICATION_SENT": self._send_notification,
            "NOTIFICATION_READ": self._read_notifications,
            "DEPLOYMENT_LOGS_UPDATE": self._append_lines,
            "DEPLOYMENT_PROGRESS": self._report_progress,
        }

    async def publish(
        self,
        caller: Caller,
        event_type: str,
        data: Mapping[str, Any],
        *,
        user_id: str | None = None,
        organization_id: str | _Own | None = OWN,
    ) -> Published:
        """Publish an event and return its id and place after the commit.

        It goes to the caller's organization; another one only by plugins and superusers, None (every one)
        only by plugins: those that the plugin system lets. `user_id` narrows it to one user of that
        organization. Raises `unknown_type`, `not_sendable`, `forbidden` (also above `max_hops`),
        `invalid_payload`, `not_found`, and what the operation behind the type raises. A cancelled caller's
        event may be published all the same.
        """
        spec = self._catalogue.get(event_type)
        if spec is None:
            raise WindFlowError(ErrorCode.UNKNOWN_TYPE, f"type: no event is called {event_type}")
        if not may_send(spec, caller.sender):
            raise WindFlowError(ErrorCode.NOT_SENDABLE, f"type: {event_type} is not for you to send")
        if caller.hop > self._settings.max_hops:
            message = f"{event_type} was caused by {caller.hop} plugins in a row; at most {self._settings.max_hops} may"
            raise WindFlowError(ErrorCode.FORBIDDEN, message, details={"maxHops": self._settings.max_hops})
        organization = self._organization(caller, organization_id)
        act = _Act(caller, spec, check_payload(spec, data), organization, user_id)
        _check_audience(act)
        await self._require_receivers(act)
        # What somebody publishes over the API is audited, and may come with an Idempotency-Key.
        if spec.delivery is Delivery.TRANSIENT and caller.sender is not Sender.API and caller.idempotency is None:
            event = _event_of(act)
            self._hand_on(event)
            return Published(event.id)
        return await self._write(act)

    async def broadcast_to_user(
        self,
        caller: Caller,
        user_id: str,
        message: Mapping[str, Any],
        *,
        organization_id: str | _Own | None = OWN,
    ) -> Published:
        """Send a plugin's message to one user.

        A `type` of the catalogue is published with its class, its `data` checked; any other message goes
        as it is, plus `timestamp`, to the sockets the user has open. Raises `not_found` for a user of
        another organization, `invalid_payload`, and as `publish`. The system has no sockets: nothing is sent.
        """
        if user_id == SYSTEM_ID:
            return Published()
        event_type = message.get("type")
        if isinstance(event_type, str) and event_type in self._catalogue:
            data = message.get("data", {})
            return await self.publish(caller, event_type, data, user_id=user_id, organization_id=organization_id)
        organization = self._organization(caller, organization_id)
        if organization is None:
            raise field_error(ErrorCode.INVALID_PAYLOAD, "organizationId", "a user belongs to one organization")
        stamped = {"timestamp": wire_time(now()), **message}
        try:
            orjson.dumps(stamped)
        except orjson.JSONEncodeError as error:
            raise WindFlowError(ErrorCode.INVALID_PAYLOAD, f"message: cannot be encoded as JSON: {error}") from error
        await self._require_user(caller, organization, user_id)
        self._push_raw(user_id, organization, stamped)
        return Published()

    def _organization(self, caller: Caller, chosen: str | _Own | None) -> str | None:
        """Return the organization to publish in; raise `forbidden` where the caller may not choose it."""
        if isinstance(chosen, _Own) or chosen == caller.principal.organization_id:
            return caller.principal.organization_id
        if caller.sender in (None, Sender.PLUGIN) or (chosen is not None and caller.principal.is_superuser):
            return chosen
        raise WindFlowError(ErrorCode.FORBIDDEN, "organizationId: you publish in your own organization only")

    async def _require_receivers(self, act: _Act) -> None:
        """Raise `not_found` for an organization that does not exist and for a user who is not in it."""
        organization = act.organization_id
        if organization not in (None, act.caller.principal.organization_id):
            async with self._db.session() as session:
                known = is_storable(organization) and await session.scalar(
                    select(Organization.id).where(Organization.id == organization)
                )
            if not known:
                raise not_found("organization")
        if act.user_id is not None and organization is not None:
            await self._require_user(act.caller, organization, act.user_id)

    async def _require_user(self, caller: Caller, organization_id: str, user_id: str) -> None:
        """Raise `not_found` unless the user is in the organization; plugins may tell superusers what they did there."""
        found = user_in(organization_id, user_id, or_superuser=caller.sender is Sender.PLUGIN)
        async with self._db.session() as session:
            if await session.scalar(found) is None:
                raise not_found("user")

    async def _write(self, act: _Act) -> Published:
        """Publish in a unit of work, once for each Idempotency-Key."""
        take = self._by_type.get(act.spec.name)
        if take is None and act.caller.idempotency is None:
            return await self._append(act)
        return await self._write_once(act, take or _publish_plainly)

    async def _append(self, act: _Act) -> Published:
        """Publish what changes nothing else: many such publishes share a transaction."""
        event = _event_of(act)
        if act.caller.sender is Sender.API:
            await self._db.append(event, _entry(act, event))
        else:
            await self._db.append(event)
        return _published(event)

    async def _write_once(self, act: _Act, take: Callable[[Transaction, _Act], Event | None]) -> Published:
        made: list[Event] = []

        def make(tx: Transaction) -> dict[str, Any]:
            event = take(tx, act)
            if event is not None:
                made.append(event)
            if act.caller.sender is Sender.API:
                tx.records.append(_entry(act, event))
            return {"id": event.id if event else None}

        seconds = self._settings.idempotency_seconds
        answer = await self._db.write(lambda tx: once(tx, act.caller, seconds, lambda: make(tx)))
        if made:
            return _published(made[-1])
        return await self._published_before(answer["id"])

    async def _published_before(self, event_id: str | None) -> Published:
        """Return what a retry is answered: the first event, with its place if it is still in the log."""
        if event_id is None:
            return Published()
        async with self._db.session() as session:
            found = await session.execute(
                select(EventRecord.stream, EventRecord.offset).where(EventRecord.id == event_id)
            )
            row = found.first()
        return Published(event_id) if row is None else Published(event_id, row.stream, row.offset)

    # ---- types with a state of their own --------------------------------------------------------

    def _send_notification(self, tx: Transaction, act: _Act) -> Event:
        assert isinstance(act.payload, NotificationSent)
        organization = _required_organization(act)
        return self._notifications.send_in(tx, act.caller, act.payload, organization, act.user_id)[1]

    def _read_notifications(self, tx: Transaction, act: _Act) -> Event | None:
        """The caller reads their own; nobody reads for another."""
        assert isinstance(act.payload, NotificationRead)
        events = self._notifications.mark_read_in(tx, act.caller, act.payload.notification_ids)[1]
        return events[-1] if events else None

    def _append_lines(self, tx: Transaction, act: _Act) -> Event | None:
        """Lines without a number come after the last one; a number has to be the next one."""
        payload = act.payload
        assert isinstance(payload, DeploymentLogsUpdate)
        organization = _required_organization(act)
        lines = lines_of(payload)
        row = find_locked(tx, payload.deployment_id)
        if (
            row is not None
            and row.organization_id == organization
            and payload.first_line not in (None, row.last_line + 1)
        ):
            rule = f"the next line of this log is {row.last_line + 1}, not {payload.first_line}"
            raise WindFlowError(ErrorCode.LOG_GAP, f"firstLine: {rule}", details={"nextLine": row.last_line + 1})
        append = self._deployments.logs.append_in
        return append(tx, act.caller, payload.deployment_id, None, lines, organization.__eq__)[1]

    def _report_progress(self, tx: Transaction, act: _Act) -> Event:
        """Progress of something that is no deployment here is an event like any other."""
        assert isinstance(act.payload, DeploymentProgress)
        organization = _required_organization(act)
        row = find_locked(tx, act.payload.deployment_id)
        if row is None or row.organization_id != organization:
            return _publish_plainly(tx, act)
        data = act.payload.wire()
        return self._deployments.reports.progress_in(tx, act.caller, row.id, data, organization.__eq__)[1]


def _published(event: Event) -> Published:
    return Published(event.id, None if event.offset is None else event.stream, event.offset)


def _entry(act: _Act, event: Event | None) -> AuditEntry:
    data = {"type": act.spec.name, "userId": act.user_id}
    return AuditEntry("event.publish", act.caller, f"event/{event.id}" if event else None, data=data)


def _publish_plainly(tx: Transaction, act: _Act) -> Event:
    return publish(tx, _event_of(act))


def _event_of(act: _Act) -> Event:
    principal = act.caller.principal
    return new_event(
        act.spec,
        act.organization_id,
        act.payload,
        actor=principal,
        user_id=act.user_id,
        session_id=principal.session_id if act.spec.audience is Audience.SESSION else None,
        connection_id=act.caller.connection_id,
        hop=act.caller.hop,
    )


def _required_organization(act: _Act) -> str:
    if act.organization_id is None:
        raise field_error(ErrorCode.INVALID_PAYLOAD, "organizationId", f"{act.spec.name} belongs to one organization")
    return act.organization_id


def _check_audience(act: _Act) -> None:
    """Raise `invalid_payload` where type and receiver do not fit."""
    spec, caller = act.spec, act.caller
    rule = None
    if act.user_id is not None:
        if act.organization_id is None:
            rule = "a user belongs to one organization"
        elif spec.delivery in (Delivery.LATEST, Delivery.LOG):
            rule = f"{spec.name} is kept for the whole organization, not for one user"
        elif spec.audience in (Audience.SESSION, Audience.CONNECTION):
            rule = f"{spec.name} is for one {spec.audience}"
    elif spec.audience is Audience.USER and spec.name != "NOTIFICATION_READ":
        rule = f"{spec.name} is for one user: name them"
    if rule is not None:
        raise field_error(ErrorCode.INVALID_PAYLOAD, "userId", rule)
    has_target = {Audience.SESSION: caller.principal.session_id, Audience.CONNECTION: caller.connection_id}
    if spec.audience in has_target and has_target[spec.audience] is None:
        raise field_error(ErrorCode.INVALID_PAYLOAD, "type", f"{spec.name} is for one {spec.audience}; there is none")
