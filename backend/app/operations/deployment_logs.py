"""The numbered lines of a deployment: appended once each, and read back.

`Deployments` and `Events` call `append_in` inside their units of work. A line's number is taken
under the deployment's lock: no gap, no double, and what was sent twice is stored once.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, cast

from sqlalchemy import Row, Table, insert

from backend.app.auth.permissions import Caller
from backend.app.config import Settings
from backend.app.database import Transaction
from backend.app.models import DeploymentLog
from backend.app.models.columns import now
from backend.app.operations.deployment_rows import ACTIVE, change, closed, lock, reported
from backend.app.operations.deployment_status import is_lost
from backend.app.operations.leases import claim, runner_of
from backend.app.realtime.event import Event, new_event
from backend.app.realtime.unit_of_work import publish
from backend.app.schemas.errors import ErrorCode, FieldError, WindFlowError, field_error
from backend.app.schemas.event_spec import EventCatalogue
from backend.app.schemas.log_line import cut_line
from backend.app.schemas.websocket_events import DeploymentLogsUpdate

LEVEL_CHARACTERS = 16
LINE_BYTES = 64
"""What a line takes in the database besides its text, about: a log of empty lines is not small."""
_REPLACEMENT = "\ufffd"
_INSERT = insert(cast(Table, DeploymentLog.__table__))


class LogLine(NamedTuple):
    """One line as it was reported."""

    text: str
    time: datetime | None = None
    """When it was printed, with a time zone."""
    stream: str | None = None
    """`out` or `err`."""
    level: str | None = None


class DeploymentLogs:
    """Appends lines. Every method is called with a transaction that it takes part in."""

    def __init__(self, settings: Settings, catalogue: EventCatalogue) -> None:
        self._settings = settings
        self._logs_update = catalogue["DEPLOYMENT_LOGS_UPDATE"]

    def append_in(
        self,
        tx: Transaction,
        caller: Caller,
        deployment_id: str,
        first_line: int | None,
        lines: Sequence[LogLine],
        can_reach: Callable[[str], bool],
    ) -> tuple[dict[str, Any], Event | None]:
        """Store the lines that are new and publish them; return the answer and the event, if any line was new.

        `first_line` None means: after the last line. Lines below the next number are ignored, which
        makes a repetition harmless. Raises `not_found`, `lease_held`, `deployment_closed`, `log_gap`,
        `message_too_large` and `invalid_payload`.
        """
        checked = self._checked(lines)
        row = lock(tx, deployment_id, can_reach)
        columns = self._may_append(caller, row)
        next_line = row.last_line + 1
        first_line = next_line if first_line is None else first_line
        if first_line > next_line:
            raise WindFlowError(
                ErrorCode.LOG_GAP,
                f"firstLine: the next line of this log is {next_line}, not {first_line}",
                details={"nextLine": next_line},
            )
        new = checked[next_line - first_line :]
        event = None
        if new:
            stored = _rows(deployment_id, next_line, new)
            tx.conn.execute(_INSERT, stored)
            columns["last_line"] = row.last_line + len(new)
            columns["log_bytes"] = row.log_bytes + sum(line["size"] + LINE_BYTES for line in stored)
            event = publish(tx, self._event(caller, row, next_line, new))
        after = change(tx, row, columns)
        return {"nextLine": after["last_line"] + 1, **reported(after)}, event

    def _may_append(self, caller: Caller, row: Row[Any]) -> dict[str, Any]:
        """Return the lease columns of this report; raise if lines are not taken, or not from this caller."""
        moment = now()
        columns = claim(caller, row, moment, self._settings.deployment_lease_seconds)
        if row.status in ACTIVE:
            return columns
        late = timedelta(seconds=self._settings.late_lines_seconds)
        if is_lost(row):
            message = "the runner was lost: it sets the status `running` again before it delivers lines"
            raise WindFlowError(
                ErrorCode.DEPLOYMENT_CLOSED, message, details={"status": row.status, "reason": row.reason}
            )
        if row.finished_at is not None and moment > row.finished_at + late:
            raise closed(row)
        # Lines of somebody else would take the numbers of those that the runner still has.
        if row.runner_id is not None and runner_of(caller) != row.runner_id:
            raise WindFlowError(ErrorCode.LEASE_HELD, "only the runner of an ended deployment delivers late lines")
        return {}

    def _checked(self, lines: Sequence[LogLine]) -> list[LogLine]:
        """Return the lines as they are stored; raise if they are too many, too large, or one breaks a rule."""
        most, largest = self._settings.log_append_lines, self._settings.log_append_bytes
        if len(lines) > most:
            raise _too_large(f"at most {most} lines in one report (WINDFLOW_LOG_APPEND_LINES), not {len(lines)}")
        total = 0
        checked = []
        for index, line in enumerate(lines):
            total += len(line.text.encode())
            checked.append(self._line(index, line))
        if total > largest:
            raise _too_large(f"at most {largest} bytes of text in one report (WINDFLOW_LOG_APPEND_BYTES), not {total}")
        return checked

    def _line(self, index: int, line: LogLine) -> LogLine:
        text, time, level = line.text, line.time, line.level
        if "\n" in text or "\r" in text:
            raise field_error(ErrorCode.INVALID_PAYLOAD, f"lines.{index}.text", "a line holds no line end (\\n or \\r)")
        text = cut_line(text.replace("\x00", _REPLACEMENT), self._settings.log_line_bytes)
        if time is not None:
            time = _utc(index, time)
        if level is not None and not (0 < len(level) <= LEVEL_CHARACTERS and level.isascii() and level.isprintable()):
            rule = f"1 to {LEVEL_CHARACTERS} printable ASCII characters"
            raise field_error(ErrorCode.INVALID_PAYLOAD, f"lines.{index}.level", rule)
        return LogLine(text, time, line.stream, level)

    def _event(self, caller: Caller, row: Row[Any], first_line: int, lines: Sequence[LogLine]) -> Event:
        times = [line.time for line in lines]
        streams = [line.stream for line in lines]
        levels = [line.level for line in lines]
        payload = DeploymentLogsUpdate.model_validate(
            {
                "deployment_id": row.id,
                "logs": [line.text for line in lines],
                "first_line": first_line,
                "times": times if any(times) else None,
                "streams": [stream or "out" for stream in streams] if any(streams) else None,
                "levels": levels if any(levels) else None,
            }
        )
        return new_event(
            self._logs_update,
            row.organization_id,
            payload,
            actor=caller.principal,
            connection_id=caller.connection_id,
            hop=caller.hop,
        )


def lines_of(payload: DeploymentLogsUpdate) -> list[LogLine]:
    """Return the lines of an event that somebody publishes; raise `invalid_payload` if its lists differ in length."""
    count = len(payload.logs)
    lists = {"times": payload.times, "streams": payload.streams, "levels": payload.levels}
    broken = [
        FieldError(f"data.{name}", f"as long as logs ({count}), not {len(given)}")
        for name, given in lists.items()
        if given is not None and len(given) != count
    ]
    if broken:
        raise WindFlowError(ErrorCode.INVALID_PAYLOAD, f"{broken[0].field}: {broken[0].rule}", fields=broken)
    nothing: list[None] = [None] * count
    columns = (payload.logs, payload.times or nothing, payload.streams or nothing, payload.levels or nothing)
    return [LogLine(*line) for line in zip(*columns, strict=True)]


def _rows(deployment_id: str, first_line: int, lines: Sequence[LogLine]) -> list[dict[str, Any]]:
    return [
        {
            "deployment_id": deployment_id,
            "line": number,
            "text": line.text,
            "time": line.time,
            "stream": line.stream,
            "level": line.level,
            "size": len(line.text.encode()),
        }
        for number, line in enumerate(lines, start=first_line)
    ]


def _utc(index: int, moment: datetime) -> datetime:
    try:
        if moment.tzinfo is not None:
            moment = moment.astimezone(UTC)
            return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    except OverflowError:
        pass
    raise field_error(ErrorCode.INVALID_PAYLOAD, f"lines.{index}.t", "a time with a time zone, in the years 1 to 9999")


def _too_large(rule: str) -> WindFlowError:
    return field_error(ErrorCode.MESSAGE_TOO_LARGE, "lines", rule)
