"""What a connection writes to: the contract between the core and the socket.

`websocket/frame_protocol.py` fulfils it over our own protocol class, `websocket/send_outlet.py`
over any ASGI server. Obligations: `write` never blocks and never raises, keeps the order of
calls, and is a no-op once the socket is closing; `is_paused` is true from the moment the socket
takes no more until `on_resume` was called.
"""

from collections.abc import Callable
from typing import Protocol


class Outlet(Protocol):
    """One socket's way out."""

    is_paused: bool
    """Set while the socket's own buffer is above its high-water mark."""
    on_resume: Callable[[], None] | None
    """Called when the buffer has drained; set by the connection."""

    def write(self, frames: bytes) -> None:
        """Send whole text frames, as `frames.text_frame` makes them."""

    def buffered_bytes(self) -> int:
        """Return how many bytes were written and are not yet taken by the kernel."""

    def close(self, code: int, reason: str, within_seconds: float) -> None:
        """Send the close frame after what was written; the socket is aborted if the closing takes longer."""

    def abort(self) -> None:
        """End the socket now; what was written and not sent is lost."""
