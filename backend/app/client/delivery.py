"""What a reporter is told about time, and what it tells at the end. Used by `reporter.py` and its callers."""

from dataclasses import dataclass

from backend.app.client.errors import ClientError


@dataclass(frozen=True, slots=True)
class ReporterTimes:
    """Seconds."""

    flush: float = 0.05
    """How long a line waits for others: what a reader notices least and a server thanks most."""
    progress: float = 0.2
    """Least time between two progress reports."""
    heartbeat: float = 15.0
    hold: float = 10.0
    """How long a full buffer may hold the command up while no answer comes; then the oldest lines go."""
    finish: float = 30.0
    """How long after the command's end the server may be silent before what is left is given up."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of a deployment's reports."""

    waiting_lines: int
    """Lines that the server does not have."""
    dropped_lines: int
    """Lines for which there was no room: a marker stands for them."""
    is_status_delivered: bool
    reason: str | None
    """Why something was not delivered."""
    error: ClientError | None = None
    """The server's last refusal, or that it did not answer."""
    is_refused: bool = False
    """Whether the server takes no more, for good."""
    is_ended_elsewhere: bool = False
    """Whether somebody else ended the deployment: the server knows an end, though not this one."""

    @property
    def undelivered_lines(self) -> int:
        """Lines that the server does not have, or never will."""
        return self.waiting_lines + self.dropped_lines

    @property
    def is_complete(self) -> bool:
        """Whether the server knows everything."""
        return self.is_status_delivered and not self.undelivered_lines

    @property
    def is_over(self) -> bool:
        """Whether nothing is left that could be delivered."""
        return (self.is_status_delivered or self.is_ended_elsewhere) and not self.waiting_lines
