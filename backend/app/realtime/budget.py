"""What one connection may hold, and how long its end may take."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Budget:
    """What one connection may hold, and how long its end may take. One object for all connections."""

    max_bytes: int
    max_messages: int
    high_water_bytes: int
    """Above this much in the outlet's own buffer it pauses."""
    close_seconds: float
    """For the closing handshake."""
    stalled_close_seconds: float
    """The same for a client that did not take what was due."""
