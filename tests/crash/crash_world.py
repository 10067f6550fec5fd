"""A server that is killed and started again on the same data, the people who use it, and the books.

`crash_world` makes two organizations: publishers and entitled followers in one, a stranger in the other.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.crash.follower import Follower
from tests.crash.ledger import Ledger
from tests.crash.publishers import append_lines, publish_over_rest, publish_over_socket
from tests.crash.recorder import install, recorded
from tests.integration.server_process import PASSWORD, ServerProcess, server_process
from tests.integration.spools import free_port
from tests.proving import amount
from tests.waiting import eventually

FOLLOWERS = 3
COMPLETE_SECONDS = amount(60.0, 300.0)
SETTINGS = {
    "ACCESS_TOKEN_SECONDS": "86400",
    "INBOUND_PER_MINUTE": "600000",
    "INBOUND_BURST": "10000",
    "MAX_CONNECTIONS_PER_USER": "3000",
    "MAX_UNAUTHENTICATED": "3000",
    "MAX_UNAUTHENTICATED_PER_ADDRESS": "3000",
}
"""Limits of abuse, which this is not."""


class CrashWorld:
    """One server on one port, over its crashes."""

    def __init__(self, folder: Path, database: Mapping[str, str]) -> None:
        self._folder = folder
        self._plugins = folder / "plugins"
        self._settings = {**SETTINGS, "PLUGINS_DIR": str(self._plugins), **database}
        self._port = free_port()
        self._running: AsyncExitStack | None = None
        self.ledger = Ledger()
        self.followers: list[Follower] = []
        self.stranger: Follower | None = None
        self.token = ""
        self.deployment_id = ""
        self.stop = asyncio.Event()

    async def start(self, fault: str | None = None) -> ServerProcess:
        """Start the server; `fault` names the point at which it is to be killed."""
        assert self._running is None
        settings = {**self._settings, **({"FAULT": fault, "TEST_FAULTS": "1"} if fault else {})}
        self._running = AsyncExitStack()
        self.server = await self._running.enter_async_context(server_process(self._folder, settings, port=self._port))
        return self.server

    async def killed(self, *, by_itself: bool = False) -> None:
        """Kill the server as `kill -9` does, or wait until it was killed at its point."""
        if not by_itself:
            self.server.process.kill()
        assert await asyncio.wait_for(self.server.process.wait(), COMPLETE_SECONDS) == -9
        await self.close()

    async def restart(self, fault: str | None = None) -> None:
        """End the server in order, and start it again."""
        await self.close()
        await self.start(fault)

    async def close(self) -> None:
        """End the server."""
        running, self._running = self._running, None
        if running is not None:
            await running.aclose()

    async def populate(self) -> None:
        """Make users and the deployment whose log is followed; every follower has a user of its own."""
        install(self._plugins)
        await self.start()
        self.token = await self.server.login()
        async with self.server.client(self.token) as client:
            made = await client.post("/deployments", json={"name": "ledger"})
            assert made.status_code == 201, made.text
            self.deployment_id = made.json()["id"]
            elsewhere = await client.post("/organizations", json={"name": "elsewhere"})
            assert elsewhere.status_code == 201, elsewhere.text
            people: dict[str, dict[str, str]] = {f"follower{number}": {} for number in range(FOLLOWERS)}
            people["stranger"] = {"organizationId": elsewhere.json()["id"]}
            for name, more in people.items():
                body = {"username": name, "role": "viewer", "password": PASSWORD, **more}
                made = await client.post("/users", json=body)
                assert made.status_code == 201, made.text
        for number in range(FOLLOWERS):
            token = await self.server.login(f"follower{number}")
            self.followers.append(Follower(self.server.socket_url, token, self.deployment_id))
        self.stranger = Follower(self.server.socket_url, await self.server.login("stranger"), None)

    @asynccontextmanager
    async def publishing(self, *, rest: int = 2, sockets: int = 2, pause_seconds: float = 0.0) -> AsyncIterator[None]:
        """Publish while the block runs; at its end every publisher finishes what it has at hand."""
        self.stop = asyncio.Event()
        run = len(self.ledger.acknowledged)
        async with self.server.client(self.token) as client, asyncio.TaskGroup() as group:
            for number in range(rest):
                name = f"rest{number}@{run}"
                group.create_task(publish_over_rest(client, name, self.ledger, self.stop, pause_seconds))
            for number in range(sockets):
                name = f"socket{number}@{run}"
                group.create_task(
                    publish_over_socket(self.server.socket_url, self.token, name, self.ledger, self.stop, pause_seconds)
                )
            group.create_task(append_lines(client, self.deployment_id, self.ledger, self.stop))
            try:
                yield
            finally:
                self.stop.set()

    async def until_acknowledged(self, more: int) -> None:
        """Wait until so many more entries were acknowledged."""
        wanted = len(self.ledger.acknowledged) + more

        async def are() -> bool:
            return len(self.ledger.acknowledged) >= wanted

        await eventually(are, COMPLETE_SECONDS)

    async def assert_balanced(self, note: str = "") -> None:
        """Assert that every entitled follower got what was acknowledged once and in order, the stranger nothing, and
        that the plugin saw each acknowledged event with the same id.
        """
        ledger, stranger = self.ledger, self.stranger
        assert stranger is not None
        for number, follower in enumerate(self.followers):
            try:
                async with asyncio.timeout(COMPLETE_SECONDS):
                    while not ledger.is_complete(follower.received) and not follower.received.faults:
                        follower.changed.clear()
                        await follower.changed.wait()
            except TimeoutError:
                pass  # what is missing stands in the verdict
            assert ledger.verdict(follower.received) == {}, (note, number, ledger.verdict(follower.received))
        await self._assert_same_events(note)
        assert (stranger.received.events, stranger.received.lines, stranger.received.faults) == ([], [], []), note
        await self._assert_recorded(note)

    async def _assert_same_events(self, note: str) -> None:
        """Assert that all followers have the same events: also those whose publishers got no answer."""

        async def are_same() -> bool:
            return all(follower.received.events == self.followers[0].received.events for follower in self.followers)

        try:
            await eventually(are_same, COMPLETE_SECONDS)
        except TimeoutError:
            raise AssertionError(f"{note}: {[len(each.received.events) for each in self.followers]} events") from None

    async def _assert_recorded(self, note: str) -> None:
        async def is_recorded() -> bool:
            return self.ledger.plugin_verdict(recorded(self._plugins)) == {}

        try:
            await eventually(is_recorded, COMPLETE_SECONDS)
        except TimeoutError:
            raise AssertionError((note, self.ledger.plugin_verdict(recorded(self._plugins)))) from None


@asynccontextmanager
async def crash_world(folder: Path, database: Mapping[str, str]) -> AsyncIterator[CrashWorld]:
    """Run a server with its people and followers."""
    world = CrashWorld(folder, database)
    try:
        await world.populate()
        assert world.stranger is not None
        async with AsyncExitStack() as stack:
            for follower in (*world.followers, world.stranger):
                await stack.enter_async_context(follower)
            yield world
    finally:
        await world.close()
