"""Row F56: the clock jumps by an hour, both ways, and the process stands still for a minute."""

import asyncio
import signal
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.faults.faulty_world import World, faulty_world, gather_bounded
from tests.faults.raw_socket import RawSocket
from tests.integration.server_process import PASSWORD
from tests.proving import amount, measured
from tests.waiting import eventually

SOCKETS = 20
HOUR_SECONDS = 3600
STOPPED_SECONDS = amount(8.0, 60.0)
LEASE_SECONDS = 4.0
SWEEP_SECONDS = 0.5
SETTINGS = {
    "DEPLOYMENT_LEASE_SECONDS": str(LEASE_SECONDS),
    "LEASE_SWEEP_SECONDS": str(SWEEP_SECONDS),
    "RECHECK_SECONDS": "1",
    "HEARTBEAT_SECONDS": "1",
    "PONG_TIMEOUT_SECONDS": "4",
    "WRITE_STALL_SECONDS": "3",
    "ACCESS_TOKEN_SECONDS": "900",
    "REAUTH_NOTICE_SECONDS": "60",
}
"""Every limit is below the time for which the process stands still."""
SETTLED_SECONDS = 3.0
"""Several sweeps, checks and pings."""


@pytest.fixture
def clock(tmp_path: Path) -> "Clock":
    """The wall clock of a server, to be turned while it runs; skips where libfaketime is not installed."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        pytest.skip("no libfaketime (Debian: libfaketime) to turn a server's clock with")
    return Clock(found[0], tmp_path / "clock")


class Clock:
    """What `date` says to one process; its monotonic clock goes on as ever."""

    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        self.variables = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.turn(0)

    def turn(self, seconds: int) -> None:
        """Have the clock ahead of the real one by so much, or behind it."""
        self._file.write_text(f"{seconds:+d}s\n", encoding="ascii")


class Runner:
    """Reports a deployment with an API token, which no clock ends."""

    def __init__(self, client: httpx.AsyncClient, deployment_id: str) -> None:
        self._client = client
        self._headers = {"X-Windflow-Runner": str(uuid.uuid4())}
        self.deployment_id = deployment_id

    async def status(self, status: str) -> httpx.Response:
        """Report a status."""
        path = f"/deployments/{self.deployment_id}/status"
        return await self._client.put(path, json={"status": status}, headers=self._headers)

    async def beat(self) -> None:
        """Renew the lease until cancelled; a server that stands still is waited for."""
        while True:
            try:
                path = f"/deployments/{self.deployment_id}/heartbeat"
                answer = await self._client.post(path, json={}, headers=self._headers)
            except httpx.TransportError:
                continue  # a kept connection that was idle for too long may be closed: a runner asks again
            assert answer.status_code == 200, answer.text
            await asyncio.sleep(LEASE_SECONDS / 8)

    async def shown(self) -> tuple[str, str | None]:
        """Return status and reason."""
        found = (await self._client.get(f"/deployments/{self.deployment_id}")).json()
        return found["status"], found.get("reason")


@asynccontextmanager
async def runners(world: World) -> AsyncIterator[tuple[Runner, Runner]]:
    """Give a runner that lives through the block, and one that has fallen silent just now."""
    async with world.server.client(world.tokens["control"]) as client:
        made = await client.post("/auth/tokens", json={"name": "runner", "role": "operator"})
        assert made.status_code == 201, made.text
    async with httpx.AsyncClient(
        base_url=f"{world.server.url}/api/v1",
        headers={"Authorization": f"Bearer {made.json()['secret']}"},
        timeout=STOPPED_SECONDS + 30,
    ) as client:
        found = []
        for name in ("living", "silent"):
            made = await client.post("/deployments", json={"name": name})
            runner = Runner(client, made.json()["id"])
            assert (await runner.status("running")).status_code == 200
            found.append(runner)
        beating = asyncio.create_task(found[0].beat())
        try:
            yield found[0], found[1]
            assert not beating.done(), beating.exception()
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)


async def assert_goes_on(world: World, sockets: list[RawSocket], runner: Runner) -> None:
    """Assert that a living runner kept its deployment, and that no socket missed what comes; they are `answering`."""
    assert await runner.shown() == ("running", None)
    token = await world.server.login("control", PASSWORD)
    async with world.server.client(token) as client:
        made = await client.post("/deployments", json={"name": "after"})
        assert made.status_code == 201, made.text
        answer = await client.post(
            f"/deployments/{made.json()['id']}/logs", json={"firstLine": 1, "lines": [{"text": "after"}]}
        )
        assert answer.status_code == 200, answer.text
    log = ("DEPLOYMENT_LOGS_UPDATE", made.json()["id"])

    async def have_all() -> bool:
        return all(
            any((message["type"], message["data"].get("deploymentId")) == log for message in socket.texts)
            for socket in sockets
        )

    await eventually(have_all)


@asynccontextmanager
async def answering(sockets: list[RawSocket]) -> AsyncIterator[None]:
    """Have the clients answer the server's pings while the block runs; a socket that was cut is a failure."""
    is_over = asyncio.Event()

    async def answer(socket: RawSocket) -> None:
        while not is_over.is_set():
            assert await socket.lives()
            await asyncio.sleep(SWEEP_SECONDS)

    async with asyncio.TaskGroup() as group:
        for socket in sockets:
            group.create_task(answer(socket))
        try:
            yield
        finally:
            is_over.set()


async def assert_is_lost(runner: Runner) -> float:
    """Assert that a silent runner is found by time that passes, whatever the clock says; return after how long."""
    since = time.monotonic()

    async def is_lost() -> bool:
        return await runner.shown() == ("failed", "runner lost")

    await eventually(is_lost)
    return time.monotonic() - since


@pytest.mark.parametrize("seconds", [HOUR_SECONDS, -HOUR_SECONDS], ids=["ahead", "back"])
async def test_f56_the_clock_jumps(own_database: dict[str, str], tmp_path: Path, clock: Clock, seconds: int) -> None:
    """Clock ± 1 h: no socket is cut, no living runner lost, a silent one found in its time; an access token that is
    over by the clock is refused as `token_expired`, and its refresh works.
    """
    async with (
        faulty_world(tmp_path, SETTINGS | own_database, variables=clock.variables) as world,
        httpx.AsyncClient(base_url=world.server.url) as browser,
    ):
        form = {"username": "polite", "password": PASSWORD}
        pair = (await browser.post("/api/v1/auth/login", data=form)).json()
        sockets = await gather_bounded([lambda: world.socket("polite", is_subscribed=True)] * SOCKETS, 10)
        try:
            async with answering(sockets), runners(world) as (living, silent):
                clock.turn(seconds)
                await asyncio.sleep(SETTLED_SECONDS)  # what must not happen needs time to happen
                await assert_goes_on(world, sockets, living)
                found_after = await assert_is_lost(silent)
                own = {"Authorization": f"Bearer {pair['access_token']}"}
                answer = await browser.get("/api/v1/deployments", headers=own)
                if seconds > 0:
                    assert (answer.status_code, answer.json()["code"]) == (401, "token_expired")
                else:
                    assert answer.status_code == 200
                fresh = await browser.post("/api/v1/auth/refresh", json={"refreshToken": pair["refresh_token"]})
                assert fresh.status_code == 200, fresh.text
                own = {"Authorization": f"Bearer {fresh.json()['access_token']}"}
                assert (await browser.get("/api/v1/deployments", headers=own)).status_code == 200
                clock.turn(0)
                await asyncio.sleep(SETTLED_SECONDS)
                await assert_goes_on(world, sockets, living)
        finally:
            for socket in sockets:
                socket.close()
    measured(
        f"F56: clock {seconds:+d} s: silent runner found after", f"{found_after:.1f} s", f"lease {LEASE_SECONDS:g} s"
    )


async def test_f56_the_process_stands_still(own_database: dict[str, str], tmp_path: Path) -> None:
    """The process is stopped for 60 s: no socket is cut, no living runner lost, and what comes after is delivered."""
    async with faulty_world(tmp_path, SETTINGS | own_database) as world:
        sockets = await gather_bounded([lambda: world.socket("polite", is_subscribed=True)] * SOCKETS, 10)
        try:
            async with AsyncExitStack() as stack:
                async with answering(sockets):
                    living, silent = await stack.enter_async_context(runners(world))
                world.server.process.send_signal(signal.SIGSTOP)
                try:
                    await asyncio.sleep(STOPPED_SECONDS)
                finally:
                    world.server.process.send_signal(signal.SIGCONT)
                async with answering(sockets):
                    await assert_goes_on(world, sockets, living)
                    await asyncio.sleep(SETTLED_SECONDS)
                    await assert_goes_on(world, sockets, living)
                    await assert_is_lost(silent)
        finally:
            for socket in sockets:
                socket.close()
    measured(f"F56: stopped for {STOPPED_SECONDS:.0f} s: sockets cut, living runners lost", "0", f"{SOCKETS} sockets")
