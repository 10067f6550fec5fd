"""uvicorn's server with an orderly end: it drains while its listener is open, and everything has its time.

Used by `server.py` only. Stock uvicorn closes its listener first and sends 1012 to all sockets at
once; it waits for a client that does not read for as long as that client likes.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from backend.app.cli.acceptor import Acceptor
from backend.app.cli.stop_signals import StopSignals
from backend.app.config import Settings
from backend.app.websocket.drain import Drain

logger = logging.getLogger("windflow")

SERVING_SHARE = 5 / 6
"""Part of the shutdown in which sockets and requests end; the rest is for plugins and the database."""
REQUESTS_SHARE = 1 / 3
"""Most of the shutdown that running requests get after the listener was closed."""
_LOOK_SECONDS = 0.02
_PARTING_SECONDS = 0.2
"""Time for the bytes of a last close frame, where its client does nothing to be waited for."""


class DrainingServer(uvicorn.Server):
    """Says when it is ready; ends by `signals`, in the time that is left by them."""

    def __init__(
        self,
        config: uvicorn.Config,
        settings: Settings,
        signals: StopSignals,
        *,
        find_drain: Callable[[], Drain | None],
        on_ready: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._settings = settings
        self._signals = signals
        self._find_drain = find_drain
        self._on_ready = on_ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `StopSignals`, which took them before the start."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application and serve; do nothing if the end was asked for already."""
        self.should_exit = self._signals.is_stopping
        if self.should_exit:
            return
        # Started without a socket: what is accepted, and how much of it at once, is ours.
        await super().startup([])
        self.servers += [self._acceptor(one) for one in sockets or ()]  # type: ignore[misc]
        if self.started and not self._signals.is_stopping:
            self._on_ready()

    def end(self) -> None:
        """Have the server end by itself, as where the application will never start."""
        self.should_exit = True

    def _acceptor(self, listener: socket.socket) -> Acceptor:
        def make_protocol() -> asyncio.Protocol:
            protocol: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return protocol

        def room() -> int:
            return self._settings.max_tcp_connections - len(self.server_state.connections)

        return Acceptor(listener, make_protocol, per_turn=self._settings.accepts_per_turn, room=room)

    async def on_tick(self, counter: int) -> bool:
        """Say, ten times a second, whether to end."""
        return await super().on_tick(counter) or self._signals.is_stopping

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, close the listener, let requests end, stop the application; cut what does not end in its time."""
        reserve = (1 - SERVING_SHARE) * self._settings.drain_seconds
        drain = self._find_drain()
        # No drain: the application never started, nobody has to be seen off.
        is_empty = drain is None or await drain.run(max(0.0, self._signals.left_seconds() - reserve))
        left = max(0.0, self._signals.left_seconds() - reserve)
        await self._part(min(left, self._settings.close_timeout_seconds) if is_empty else _PARTING_SECONDS)
        left = max(0.0, self._signals.left_seconds() - reserve)
        requests_seconds = max(_PARTING_SECONDS, min(left, REQUESTS_SHARE * self._settings.drain_seconds))
        # First the connections: a request that waits for its client ends by that; then uvicorn cancels the rest.
        cut = asyncio.get_running_loop().call_later(0.8 * requests_seconds, self._cut, None)
        # Seconds with a fraction: uvicorn hands the number on to asyncio.
        self.config.timeout_graceful_shutdown = requests_seconds  # type: ignore[assignment]
        try:
            await super().shutdown(sockets)
        finally:
            cut.cancel()

    async def _part(self, reply_seconds: float) -> None:
        """Wait for the closing handshakes of the sockets; close those that never authenticated; cut the rest."""
        loop = asyncio.get_running_loop()
        until = loop.time() + reply_seconds
        for protocol in self._sockets():
            if not getattr(protocol, "close_sent", False):
                self._close(protocol)
        while self._sockets() and loop.time() < until:  # noqa: ASYNC110 - uvicorn's set has no event
            await asyncio.sleep(_LOOK_SECONDS)
        left = self._sockets()
        self._cut(left)
        for _ in range(10):
            if not self._sockets():
                break
            await asyncio.sleep(0)

    def _sockets(self) -> list[Any]:
        return [one for one in self.server_state.connections if not isinstance(one, H11Protocol)]

    @staticmethod
    def _close(protocol: Any) -> None:
        """Send 1012, in the way of uvicorn; where the protocol is in no state for that, end the connection."""
        try:
            protocol.shutdown()
        except Exception:
            # Whatever it was in the middle of: one connection must not keep the others from their end.
            logger.exception("a socket could not be closed in order")
            protocol.transport.abort()

    def _cut(self, protocols: list[Any] | None) -> None:
        """End connections without waiting for what they have to write."""
        doomed = list(self.server_state.connections) if protocols is None else protocols
        if doomed:
            logger.warning("connections were cut at the end of the shutdown", extra={"connections": len(doomed)})
        for protocol in doomed:
            protocol.transport.abort()
