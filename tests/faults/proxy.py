"""A TCP proxy on 127.0.0.1 that does to each connection what bad networks do.

Tests of faults put it in front of a server, a database or a broker. Every connection is a `Link`
of its own, controlled while it runs; `Proxy.new_links` says how the next ones begin. Nothing is
simulated: bytes are read and written with real sockets, and a reset is a real RST.
"""

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field

CHUNK_BYTES = 16_384
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing sends RST and throws away what is buffered."""


@dataclass(slots=True)
class Weather:
    """How bytes travel. Changing it acts on what is forwarded from then on."""

    delay_seconds: float = 0.0
    """Each chunk waits for this long."""
    bytes_per_second: float = 0.0
    """0: as fast as it goes."""


class Link:
    """One proxied connection: `client` is the side that connected to the proxy, `server` the other one."""

    def __init__(self, client: socket.socket, server: socket.socket, weather: Weather) -> None:
        self.weather = weather
        self.upward_bytes = 0
        self.downward_bytes = 0
        """Bytes that were forwarded to the server, and to the client."""
        self._client = client
        self._server = server
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._is_swallowing = False
        self._pumps = [
            asyncio.create_task(self._pump(client, server, is_upward=True)),
            asyncio.create_task(self._pump(server, client, is_upward=False)),
        ]

    @property
    def is_open(self) -> bool:
        """Tell whether the proxy still holds both sides."""
        return self._client.fileno() >= 0

    def stall(self) -> None:
        """Stop reading from both sides: buffers fill up, nothing is lost."""
        self._flowing.clear()

    def resume(self) -> None:
        """Go on after `stall`."""
        self._flowing.set()

    def half_open(self) -> None:
        """Be a peer that was unplugged: whatever comes is swallowed, nothing is forwarded, no side is ever closed."""
        self._is_swallowing = True
        self._flowing.set()

    async def cut(self) -> None:
        """Close both sides in order: FIN."""
        await self._end()

    async def reset(self) -> None:
        """Close both sides with RST."""
        for side in (self._client, self._server):
            if side.fileno() >= 0:
                side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        await self._end()

    async def _end(self) -> None:
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        self._client.close()
        self._server.close()

    async def _pump(self, source: socket.socket, sink: socket.socket, *, is_upward: bool) -> None:
        """Forward until a side ends; pass the end of one direction on as the end of that direction alone."""
        loop = asyncio.get_running_loop()
        while True:
            await self._flowing.wait()
            try:
                data = await loop.sock_recv(source, CHUNK_BYTES)
            except OSError:
                data = b""
            if not self._flowing.is_set():
                await self._flowing.wait()
            if self._is_swallowing:
                if not data:
                    return
                continue
            await self._travel(len(data))
            try:
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                await loop.sock_sendall(sink, data)
            except OSError:
                return
            if is_upward:
                self.upward_bytes += len(data)
            else:
                self.downward_bytes += len(data)

    async def _travel(self, size: int) -> None:
        seconds = self.weather.delay_seconds
        if self.weather.bytes_per_second:
            seconds += size / self.weather.bytes_per_second
        if seconds:
            await asyncio.sleep(seconds)


@dataclass(eq=False)
class Proxy:
    """Listens on a free port of 127.0.0.1 and connects each client to `host`:`port`. Use it as `async with`."""

    host: str
    port: int
    new_links: Weather = field(default_factory=Weather)
    links: list[Link] = field(default_factory=list)
    """Every connection so far, in the order they came."""
    is_refusing: bool = False
    """True: whoever connects is reset at once, as where nobody listens."""
    _listener: socket.socket | None = None
    _accepting: "asyncio.Task[None] | None" = None

    @property
    def own_port(self) -> int:
        """The port to connect to."""
        assert self._listener is not None, "the proxy is not running"
        port: int = self._listener.getsockname()[1]
        return port

    def address(self, url: str) -> str:
        """Return a URL of the server behind with the proxy's port in place of its own."""
        return url.replace(f":{self.port}", f":{self.own_port}", 1)

    async def __aenter__(self) -> "Proxy":
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.setblocking(False)
        self._accepting = asyncio.create_task(self._accept())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listener is not None
        assert self._accepting is not None
        self._accepting.cancel()
        await asyncio.gather(self._accepting, return_exceptions=True)
        self._listener.close()
        for link in self.links:
            await link.cut()

    async def _accept(self) -> None:
        assert self._listener is not None
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(self._listener)
            server = socket.socket()
            server.setblocking(False)
            try:
                if self.is_refusing:
                    raise ConnectionRefusedError
                await loop.sock_connect(server, (self.host, self.port))
            except OSError:
                server.close()
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                client.close()
                continue
            for side in (client, server):
                with contextlib.suppress(OSError):  # a client may be gone again already
                    side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            weather = Weather(self.new_links.delay_seconds, self.new_links.bytes_per_second)
            self.links.append(Link(client, server, weather))
