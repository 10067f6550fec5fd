"""Row F53 on PostgreSQL: the database is down at boot and mid-run, slow, silent, and its pool exhausted."""

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest

from tests.faults.baseline import http_get, metrics
from tests.faults.control import assert_quiet_log, control
from tests.faults.database_faults import (
    LOUD,
    assert_alive_but_not_ready,
    assert_recovers,
    assert_told_on_the_socket,
    assert_unavailable,
    behind_a_proxy,
    take_away,
)
from tests.faults.faulty_world import World, faulty_world, gather_bounded, populate
from tests.faults.raw_socket import RawSocket
from tests.integration.cli_process import Person
from tests.integration.server_process import PASSWORD, server_process
from tests.integration.spools import free_port
from tests.proving import amount, measured
from tests.services import server_database
from tests.waiting import eventually

pytestmark = pytest.mark.postgres

IDLE = amount(40, 200)
POOL = 5
AWAY_SECONDS = amount(2.0, 30.0)
TIMEOUT_SECONDS = 2.0
SETTINGS = {
    "DATABASE_POOL_SIZE": str(POOL),
    "DATABASE_TIMEOUT_SECONDS": str(TIMEOUT_SECONDS),
    "READINESS_SECONDS": "1",
    "LEASE_SWEEP_SECONDS": "1",
    "RECHECK_SECONDS": "1",
    "HEARTBEAT_SECONDS": "600",  # nobody reads at the idle sockets meanwhile, and so nobody answers pings
}
ANSWER_SECONDS = 4 * TIMEOUT_SECONDS + 4
"""A place in the pool, a connection, its look at the server, the statement; then the connection is ended."""


@pytest.fixture
def direct() -> Iterator[str]:
    """The address of an empty database that goes past the proxy."""
    with server_database("postgres") as settings:
        yield settings["DATABASE_URL"]


async def assert_all_live(sockets: list[RawSocket]) -> None:
    """Assert that every socket answers."""
    assert all(await asyncio.gather(*(socket.lives() for socket in sockets)))


async def assert_all_get(world: World, sockets: list[RawSocket]) -> None:
    """Assert that what is published now comes to every socket."""
    async with world.publisher() as publisher:
        await publisher.publish(1)
        for socket in sockets:
            await socket.until(
                lambda message: (
                    message["type"] == "DEPLOYMENT_LOGS_UPDATE"
                    and message["data"]["deploymentId"] == publisher.deployment_id
                )
            )


async def test_f53_a_database_that_is_down_at_boot_is_waited_for(direct: str, tmp_path: Path) -> None:
    """Down at boot: /livez 200, /readyz 503 with its reason, 503 for all else; when it comes, the server serves."""
    async with behind_a_proxy(direct) as (proxy, database), AsyncExitStack() as stack:
        proxy.is_refusing = True
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        starting = asyncio.create_task(
            stack.enter_async_context(server_process(tmp_path, SETTINGS | database, port=port))
        )

        async def listens() -> bool:
            try:
                return (await http_get(url, "/livez"))[0] == 200
            except OSError:
                return False

        await eventually(listens)
        await assert_alive_but_not_ready(url)
        status, body = await http_get(url, "/api/v1/system")
        assert (status, "storage_unavailable" in body) == (503, True)
        with await RawSocket.connect(url) as socket:
            assert await socket.upgrade() == 503
        assert not starting.done()
        since = time.monotonic()
        proxy.is_refusing = False
        await assert_recovers(url)
        took = time.monotonic() - since
        server = await starting
        assert server.url == url
        async with server.client(await server.login("admin", PASSWORD)) as client:
            assert (await client.get("/system")).status_code == 200
        # uvicorn says that of every upgrade that is answered with a refusal.
        assert_quiet_log(server, allowed=("ASGI callable returned without completing handshake.",))
    measured("F53: ready after a database that was down at boot came", f"{took:.1f} s", "looked for every 5 s at most")


async def test_f53_a_server_that_waits_for_its_database_can_be_stopped(tmp_path: Path) -> None:
    """While the server waits for its database, SIGTERM ends it with status 0."""
    nowhere = {"WINDFLOW_DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none"}
    operator = Person("http://127.0.0.1:9", tmp_path, nowhere)
    async with operator.start("serve", "--port", "0") as server:
        await server.until_err("the server waits for it")
        server.signal(signal.SIGTERM)
        done = await server.end()
        assert done.status == 0
        assert "Traceback" not in done.err


async def test_f53_a_database_that_goes_mid_run_costs_no_socket(direct: str, tmp_path: Path) -> None:
    """Down mid-run with 200 idle sockets: they stay, /readyz 503, clear errors everywhere; it recovers by itself."""
    async with (
        behind_a_proxy(direct) as (proxy, database),
        faulty_world(tmp_path, SETTINGS | database) as world,
        control(*world.control, may_be_refused=True, may_take_seconds=ANSWER_SECONDS, errors=LOUD) as running,
    ):
        sockets = await gather_bounded([lambda: world.socket("polite", is_subscribed=True)] * IDLE, 10)
        try:
            async with world.publisher() as publisher, world.server.client(world.tokens["admin"]) as client:
                await publisher.publish(1)
                since = time.monotonic()
                await take_away(proxy)
                await assert_alive_but_not_ready(world.server.url)
                assert_unavailable(await client.get("/deployments"))
                assert_unavailable(await client.post("/deployments", json={"name": "refused"}))
                await assert_told_on_the_socket(sockets[0], publisher.deployment_id)
                with await RawSocket.connect(world.server.url) as newcomer:
                    assert await newcomer.upgrade() == 101
                    await newcomer.send_json("auth", {"token": world.tokens["polite"]})
                    code, _ = await newcomer.closed()
                    assert code == 4029  # come again, not 1008: its token is as good as before
                await asyncio.sleep(max(0.0, AWAY_SECONDS - (time.monotonic() - since)))
                await assert_all_live(sockets)
                proxy.is_refusing = False
                away = time.monotonic() - since
                await assert_recovers(world.server.url)
                back = time.monotonic() - since - away
                names = [item["name"] for item in (await client.get("/deployments")).json()["items"]]
                assert "refused" not in names
            await assert_all_get(world, sockets)
        finally:
            for socket in sockets:
                socket.close()
        await running.stop()
    measured(
        f"F53: database away for {away:.0f} s, {IDLE} idle sockets: ready again after",
        f"{back:.1f} s",
        "0 sockets lost",
    )


async def test_f53_a_database_that_falls_silent_is_not_waited_for_without_end(direct: str, tmp_path: Path) -> None:
    """Bytes to the database are swallowed: 503 within its time-outs, sockets stay, it recovers by itself."""
    async with (
        behind_a_proxy(direct) as (proxy, database),
        faulty_world(tmp_path, SETTINGS | database) as world,
        control(*world.control, may_be_refused=True, may_take_seconds=ANSWER_SECONDS, errors=LOUD) as running,
    ):
        async with (
            await world.socket("polite", is_subscribed=True) as socket,
            world.publisher() as publisher,
            world.server.client(world.tokens["admin"]) as client,
        ):
            for link in proxy.links:
                link.half_open()
            proxy.is_refusing = True  # nothing gets through
            since = time.monotonic()
            answers = await asyncio.gather(*(client.get("/deployments") for _ in range(3 * POOL)))
            took = time.monotonic() - since
            for answer in answers:
                assert_unavailable(answer)
            assert took <= ANSWER_SECONDS
            await assert_alive_but_not_ready(world.server.url)
            await assert_told_on_the_socket(socket, publisher.deployment_id)
            proxy.is_refusing = False
            await assert_recovers(world.server.url)
            await assert_all_get(world, [socket])
        await running.stop()
    measured(f"F53: {3 * POOL} requests, silent database: last 503 after", f"{took:.1f} s", f"{ANSWER_SECONDS:.0f} s")


async def test_f53_a_slow_database_is_slow_and_nothing_else(direct: str, tmp_path: Path) -> None:
    """Every answer of the database is late: requests take longer, none fails, nobody's socket is cut."""
    delay = 0.1
    async with behind_a_proxy(direct) as (proxy, database), faulty_world(tmp_path, SETTINGS | database) as world:
        sockets = await gather_bounded([lambda: world.socket("polite", is_subscribed=True)] * 10, 10)
        try:
            proxy.new_links.delay_seconds = delay
            for link in proxy.links:
                link.weather.delay_seconds = delay
            async with world.server.client(world.tokens["admin"]) as client:
                answers = await asyncio.gather(*(client.get("/deployments") for _ in range(POOL)))
                assert {answer.status_code for answer in answers} == {200}
                assert min(answer.elapsed.total_seconds() for answer in answers) >= delay
            await assert_all_get(world, sockets)
            await assert_all_live(sockets)
        finally:
            for socket in sockets:
                socket.close()
        assert [record for record in world.server.logged() if record["level"] == "ERROR"] == []


async def test_f53_an_exhausted_pool_refuses_and_recovers(direct: str, tmp_path: Path) -> None:
    """Every connection waits for a lock that another program holds: others get 503 in time, sockets stay."""
    async with (
        behind_a_proxy(direct) as (_, database),
        faulty_world(tmp_path, SETTINGS | database) as world,
        control(*world.control, may_be_refused=True, may_take_seconds=ANSWER_SECONDS, errors=LOUD) as running,
    ):
        sockets = await gather_bounded([lambda: world.socket("polite", is_subscribed=True)] * IDLE, 10)
        other = await asyncpg.connect(direct)
        try:
            async with world.server.client(world.tokens["admin"]) as client:
                held = other.transaction()
                await held.start()
                await other.execute("SELECT * FROM event_streams FOR UPDATE")
                since = time.monotonic()
                makes = [client.post("/deployments", json={"name": "waits"}) for _ in range(4 * POOL)]
                answers = await asyncio.gather(*makes)
                took = time.monotonic() - since
                assert {answer.status_code for answer in answers} == {503}
                for answer in answers:
                    assert_unavailable(answer)
                assert took <= ANSWER_SECONDS
                assert await http_get(world.server.url, "/livez") == (200, "ok")
                await assert_all_live(sockets)
                await held.rollback()
                await assert_recovers(world.server.url)
                made = await client.post("/deployments", json={"name": "after"})
                assert made.status_code == 201, made.text
                names = [item["name"] for item in (await client.get("/deployments")).json()["items"]]
                assert "waits" not in names  # what was refused was not done later
            await assert_all_get(world, sockets)
        finally:
            await other.close()
            for socket in sockets:
                socket.close()
        await running.stop()
    measured(f"F53: {4 * POOL} writes, all connections locked: last 503 after", f"{took:.1f} s", f"pool of {POOL} + 5")


async def test_f53_idle_sockets_hold_no_connection(direct: str, tmp_path: Path) -> None:
    """200 idle sockets with a pool of 5: none holds a connection of the database, nor a transaction in it."""
    async with (
        behind_a_proxy(direct) as (_, database),
        server_process(
            tmp_path, {"MAX_CONNECTIONS_PER_USER": "300", "DATABASE_POOL_SIZE": str(POOL)} | database
        ) as server,
    ):
        world = await populate(server)
        sockets = await gather_bounded([lambda: world.socket("polite", is_subscribed=True)] * IDLE, 10)
        other = await asyncpg.connect(direct)
        try:

            async def holds_none() -> bool:
                return (await metrics(server))["windflow_database_connections"] == 0

            await eventually(holds_none)

            async def states() -> list[str]:
                rows = await other.fetch(
                    "SELECT state FROM pg_stat_activity WHERE datname = current_database()"
                    " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
                )
                return [row["state"] for row in rows]

            async def are_idle() -> bool:  # but for the look at the streams' heads, each second
                return set(await states()) <= {"idle"}

            await eventually(are_idle)
            assert len(await states()) <= 2 * POOL
        finally:
            await other.close()
            for socket in sockets:
                socket.close()
    measured(f"F53: database connections held by {IDLE} idle sockets", "0", f"pool of {POOL}")
