"""Notifications: sent to a user or a whole organization, listed, and read by each user for themselves.

Routes and `Events` call this; whoever publishes NOTIFICATION_SENT, the row is written here.
Row, audit entry and event are one transaction; nobody sees another user's or organization's.
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import ColumnElement, Select, and_, exists, func, or_, select

from backend.app.auth.permissions import Caller
from backend.app.config import Settings
from backend.app.database import Database, Transaction
from backend.app.models import Deployment, Notification, NotificationRead, User
from backend.app.models.columns import new_id, now
from backend.app.operations.idempotency import once
from backend.app.operations.insert_absent import insert_absent
from backend.app.operations.paging import encode_cursor, older_than
from backend.app.operations.stored_text import is_storable, refuse_nul
from backend.app.realtime.event import Event, new_event, stream_of
from backend.app.realtime.event_log import positions
from backend.app.realtime.unit_of_work import audit, publish
from backend.app.schemas import websocket_events
from backend.app.schemas.errors import ErrorCode, WindFlowError, field_error, not_found
from backend.app.schemas.event_spec import EventCatalogue
from backend.app.schemas.times import wire_time
from backend.app.schemas.websocket_events import NotificationSent

READ_AT_ONCE = 1_000
"""Most notifications that one NOTIFICATION_READ names; more make further events."""


class Notifications:
    """The operations on notifications."""

    def __init__(self, db: Database, settings: Settings, catalogue: EventCatalogue) -> None:
        self._db = db
        self._settings = settings
        self._sent = catalogue["NOTIFICATION_SENT"]
        self._read = catalogue["NOTIFICATION_READ"]

    # ---- acts -----------------------------------------------------------------------------------

    async def send(self, caller: Caller, payload: NotificationSent, user_id: str | None = None) -> dict[str, Any]:
        """Send a notification to a user, or to everyone, of the caller's organization and return it.

        Raises `not_found` (user, deployment) and `invalid_payload` (link).
        """
        seconds = self._settings.idempotency_seconds
        organization_id = caller.principal.organization_id

        def make(tx: Transaction) -> dict[str, Any]:
            return self.send_in(tx, caller, payload, organization_id, user_id)[0]

        return await self._db.write(lambda tx: once(tx, caller, seconds, lambda: make(tx)))

    def send_in(
        self, tx: Transaction, caller: Caller, payload: NotificationSent, organization_id: str, user_id: str | None
    ) -> tuple[dict[str, Any], Event]:
        """Send a notification as part of a unit of work; return it and its event. Raises as `send`, and `id_taken`."""
        _check(tx, payload, organization_id, user_id)
        payload = payload.model_copy(update={"notification_id": payload.notification_id or new_id()})
        row = {
            "id": payload.notification_id,
            "organization_id": organization_id,
            "user_id": user_id,
            "title": payload.title,
            "message": payload.message,
            "level": payload.level,
            "link": payload.link,
            "deployment_id": payload.deployment_id,
            "created_by": caller.principal.user_id,
            "created_at": now(),
        }
        if not insert_absent(tx.conn, Notification, [row], Notification.id):
            raise WindFlowError(ErrorCode.ID_TAKEN, "notificationId: this id belongs to another notification")
        target = f"notification/{row['id']}"
        audit(tx, "notification.send", caller, target=target, organization_id=organization_id, userId=user_id)
        event = new_event(
            self._sent,
            organization_id,
            payload,
            actor=caller.principal,
            user_id=user_id,
            connection_id=caller.connection_id,
            hop=caller.hop,
        )
        return _shown({**row, "read_at": None}), publish(tx, event)

    async def mark_read(self, caller: Caller, ids: Sequence[str] | None) -> dict[str, Any]:
        """Mark notifications as read, None: all; return `{notificationIds, readAt, unreadCount}`.

        `notificationIds` are those that were unread until now. Raises `not_found`, naming the ids that
        do not exist for the caller, and then marks none.
        """
        seconds = self._settings.idempotency_seconds
        return await self._db.write(lambda tx: once(tx, caller, seconds, lambda: self.mark_read_in(tx, caller, ids)[0]))

    def mark_read_in(
        self, tx: Transaction, caller: Caller, ids: Sequence[str] | None
    ) -> tuple[dict[str, Any], list[Event]]:
        """Mark as read as part of a unit of work; return the answer and the events. Raises as `mark_read`."""
        moment = now()
        newly: list[str] = []
        events: list[Event] = []
        if ids is not None:
            _require_visible(tx, caller, ids)
        while True:
            unread = select(Notification.id).where(_visible(caller), _unread(caller)).order_by(Notification.id)
            if ids is not None:
                unread = unread.where(Notification.id.in_(ids))
            rows = [
                {"notification_id": found, "user_id": caller.principal.user_id, "read_at": moment}
                for found in tx.conn.scalars(unread.limit(READ_AT_ONCE))
            ]
            inserted = insert_absent(tx.conn, NotificationRead, rows, NotificationRead.notification_id)
            marked = sorted(row.notification_id for row in inserted)
            if marked:
                events.append(self._publish_read(tx, caller, marked, moment))
                newly += marked
            if len(rows) < READ_AT_ONCE:
                break
        answer = {
            "notificationIds": newly,
            "readAt": wire_time(moment),
            "unreadCount": tx.conn.scalar(_count_unread(caller)) or 0,
        }
        return answer, events

    def _publish_read(self, tx: Transaction, caller: Caller, ids: list[str], moment: Any) -> Event:
        event = new_event(
            self._read,
            caller.principal.organization_id,
            websocket_events.NotificationRead(notification_ids=ids, read_at=moment),
            actor=caller.principal,
            user_id=caller.principal.user_id,
            connection_id=caller.connection_id,
            hop=caller.hop,
        )
        return publish(tx, event)

    # ---- reading --------------------------------------------------------------------------------

    async def list(
        self,
        caller: Caller,
        *,
        is_unread: bool | None = None,
        level: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> dict[str, Any]:
        """Return `{items, unreadCount, nextCursor, positions}`, newest first.

        `is_unread` None gives both; `unreadCount` counts all of the caller's, whatever is asked for.
        Raises `invalid_payload` (the cursor).
        """
        size = min(limit or self._settings.page_limit, self._settings.page_limit)
        own = and_(
            NotificationRead.notification_id == Notification.id,
            NotificationRead.user_id == caller.principal.user_id,
        )
        statement = select(Notification.__table__, NotificationRead.read_at).outerjoin(NotificationRead, own)
        statement = statement.where(_visible(caller))
        if is_unread is not None:
            read_at = NotificationRead.read_at
            statement = statement.where(read_at.is_(None) if is_unread else read_at.is_not(None))
        if level is not None:
            statement = statement.where(Notification.level == level)
        if cursor is not None:
            statement = statement.where(older_than(cursor, Notification.created_at, Notification.id))
        statement = statement.order_by(Notification.created_at.desc(), Notification.id.desc()).limit(size + 1)
        async with self._db.session() as session:
            heads = await positions(session, [stream_of(caller.principal.organization_id)])
            rows = (await session.execute(statement)).all()
            unread_count = await session.scalar(_count_unread(caller)) or 0
        page = rows[:size]
        return {
            "items": [_shown(row._mapping) for row in page],
            "unreadCount": unread_count,
            "nextCursor": encode_cursor(page[-1].created_at, page[-1].id) if len(rows) > size else None,
            "positions": heads,
        }


def user_in(organization_id: str, user_id: str, *, or_superuser: bool = False) -> Select[Any]:
    """Return the statement that finds an active user of an organization by id, maybe a superuser of any."""
    belongs = User.organization_id == organization_id
    known = user_id if is_storable(user_id) else ""
    return select(User.id).where(
        User.id == known, or_(belongs, User.is_superuser) if or_superuser else belongs, User.is_active
    )


def check_link(link: str | None) -> None:
    """Raise `invalid_payload` unless the link is an http or https address or a path of this site."""
    if link is None:
        return
    if link.isprintable() and "\\" not in link and " " not in link:
        if link.startswith("/") and not link.startswith("//"):
            return
        try:
            parts = urlsplit(link)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme in ("http", "https") and parts.hostname and link.lower().startswith(f"{parts.scheme}://"):
            return
    raise field_error(ErrorCode.INVALID_PAYLOAD, "link", "an http(s) address, or a path that starts with one /")


def _check(tx: Transaction, payload: NotificationSent, organization_id: str, user_id: str | None) -> None:
    refuse_nul(
        title=payload.title,
        message=payload.message,
        notificationId=payload.notification_id,
        deploymentId=payload.deployment_id,
    )
    check_link(payload.link)
    if user_id is not None and tx.conn.scalar(user_in(organization_id, user_id)) is None:
        raise not_found("user")
    if payload.deployment_id is not None:
        found = select(Deployment.id).where(
            Deployment.id == payload.deployment_id, Deployment.organization_id == organization_id
        )
        if tx.conn.scalar(found) is None:
            raise not_found("deployment")


def _require_visible(tx: Transaction, caller: Caller, ids: Sequence[str]) -> None:
    wanted = [given for given in dict.fromkeys(ids) if is_storable(given)]
    found = set(tx.conn.scalars(select(Notification.id).where(_visible(caller), Notification.id.in_(wanted))))
    unknown = [given for given in dict.fromkeys(ids) if given not in found]
    if unknown:
        message = f"notifications not found: {', '.join(unknown[:10])}"
        raise WindFlowError(ErrorCode.NOT_FOUND, message, details={"notificationIds": unknown})


def _visible(caller: Caller) -> ColumnElement[bool]:
    """What exists for the caller: their own, and everyone's of their organization."""
    principal = caller.principal
    is_mine = or_(Notification.user_id.is_(None), Notification.user_id == principal.user_id)
    return and_(Notification.organization_id == principal.organization_id, is_mine)


def _unread(caller: Caller) -> ColumnElement[bool]:
    return ~exists().where(
        NotificationRead.notification_id == Notification.id, NotificationRead.user_id == caller.principal.user_id
    )


def _count_unread(caller: Caller) -> Select[Any]:
    return select(func.count()).select_from(Notification).where(_visible(caller), _unread(caller))


def _shown(row: Any) -> dict[str, Any]:
    return {
        "id": row["id"],
        "title": row["title"],
        "message": row["message"],
        "level": row["level"],
        "link": row["link"],
        "deploymentId": row["deployment_id"],
        "userId": row["user_id"],
        "createdBy": row["created_by"],
        "createdAt": wire_time(row["created_at"]),
        "read": row["read_at"] is not None,
        "readAt": None if row["read_at"] is None else wire_time(row["read_at"]),
    }
