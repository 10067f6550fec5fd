"""An outlet whose buffer a test fills and drains by hand."""

from collections.abc import Callable

from backend.app.auth.permissions import Principal
from backend.app.realtime.budget import Budget
from backend.app.realtime.connection import Connection
from backend.app.realtime.flusher import Flusher
from backend.app.realtime.frames import texts_of
from backend.app.schemas.roles import Role

BUDGET = Budget(max_bytes=1000, max_messages=10, high_water_bytes=100, close_seconds=5, stalled_close_seconds=30)


class HandOutlet:
    """Takes every write at once, until `is_taking` is False: then it buffers, and pauses above its high water."""

    def __init__(self) -> None:
        self.is_paused = False
        self.on_resume: Callable[[], None] | None = None
        self.is_taking = True
        self.writes: list[bytes] = []
        self.buffered = 0
        self.closed: tuple[int, str, float] | None = None
        self.is_aborted = False

    def write(self, frames: bytes) -> None:
        if self.closed is not None:
            return
        self.writes.append(frames)
        if not self.is_taking:
            self.buffered += len(frames)
            self.is_paused = self.buffered > BUDGET.high_water_bytes

    def buffered_bytes(self) -> int:
        return self.buffered

    def drain(self) -> None:
        """The client takes everything again."""
        self.is_taking, self.buffered, self.is_paused = True, 0, False
        if self.on_resume is not None:
            self.on_resume()

    def close(self, code: int, reason: str, within_seconds: float) -> None:
        self.closed = self.closed or (code, reason, within_seconds)

    def abort(self) -> None:
        self.is_aborted = True

    @property
    def texts(self) -> list[str]:
        """The messages that were written, in order."""
        return [text for frames in self.writes for text in texts_of(frames)]


def principal(organization_id: str = "org", user_id: str = "user", **changes: object) -> Principal:
    """Somebody of an organization."""
    values: dict[str, object] = {"username": user_id, "role": Role.VIEWER, **changes}
    return Principal(user_id=user_id, organization_id=organization_id, **values)  # type: ignore[arg-type]


def connect(
    flusher: Flusher,
    who: Principal | None = None,
    *,
    is_greeted: bool = True,
    settle: Callable[[], None] = lambda: None,
) -> tuple[Connection, HandOutlet]:
    """A connection with such an outlet; greeted with `hello` unless told otherwise."""
    outlet = HandOutlet()
    connection = Connection(who or principal(), outlet, BUDGET, flusher.add, settle)
    if is_greeted:
        connection.greet("hello")
        connection.flush({})
        outlet.writes.clear()
    return connection, outlet
