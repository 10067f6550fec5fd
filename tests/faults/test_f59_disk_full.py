"""Row F59: the disk is full, or the database has reached its limit."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.faults.control import control
from tests.faults.faulty_world import LINE_BYTES, World, faulty_world
from tests.faults.raw_socket import RawSocket
from tests.proving import measured

LIMIT_BYTES = 2 << 20
"""Of the database: one that was just made has about a quarter of it."""
ROOM_BYTES = 1 << 20
"""What is left on the disk."""
REPORT_SIZES = (50, 5, 1)
"""Lines of a report: when no large one fits, smaller ones fill what is left."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 4 MiB; skips where this process may not mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("no `mount` to make a small file system with")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"mounting a small file system is refused here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def fill(client: httpx.AsyncClient, deployment_id: str) -> tuple[int, httpx.Response]:
    """Append lines until not even one is taken; return the number of the refused line, and the answer."""
    next_line = 1
    for size in REPORT_SIZES:
        for _ in range(2_000):
            lines = [{"text": str(number).ljust(LINE_BYTES, "x")} for number in range(next_line, next_line + size)]
            body = {"firstLine": next_line, "lines": lines}
            answer = await client.post(f"/deployments/{deployment_id}/logs", json=body)
            if answer.status_code != 200:
                break
            next_line += size
        else:
            raise AssertionError("the database never was full")
    return next_line, answer


async def create(client: httpx.AsyncClient, name: str) -> str:
    """Make a deployment; return its id."""
    made = await client.post("/deployments", json={"name": name})
    assert made.status_code == 201, made.text
    deployment_id: str = made.json()["id"]
    return deployment_id


def assert_unavailable(answer: httpx.Response) -> None:
    """Assert the clear 503."""
    assert answer.status_code == 503, answer.text
    assert answer.json()["code"] == "storage_unavailable", answer.text
    assert int(answer.headers["Retry-After"]) >= 1


async def assert_holds_while_full(
    world: World, socket: RawSocket, client: httpx.AsyncClient, deployment_id: str
) -> int:
    """Fill up; assert that sockets stay, reads work, and writes are refused whole. Return the next line."""
    refused_line, answer = await fill(client, deployment_id)
    assert_unavailable(answer)
    assert await socket.lives()
    log = (await client.get(f"/deployments/{deployment_id}/logs", params={"fromLine": refused_line})).json()
    assert (log["items"], log["lastLine"]) == ([], refused_line - 1)  # nothing of the refused report is there
    assert_unavailable(await client.post("/notifications", json={"title": "t", "message": "x" * 16_000}))
    with await RawSocket.connect(world.server.url) as newcomer:
        # It only reads: that its record cannot be written degrades the trail, not the service.
        await newcomer.authenticate(world.tokens["polite"])
        assert await newcomer.lives()
    return refused_line


async def events_of(socket: RawSocket, deployment_id: str, last_line: int) -> list[int]:
    """Return the first lines of the events of a deployment that came, up to the one that holds a line."""

    def numbers() -> list[int]:
        mine = [
            message["data"]
            for message in socket.texts
            if message["type"] == "DEPLOYMENT_LOGS_UPDATE" and message["data"]["deploymentId"] == deployment_id
        ]
        return [line for data in mine for line in range(data["firstLine"], data["firstLine"] + len(data["logs"]))]

    async with asyncio.timeout(30):
        while last_line not in numbers():
            await socket.message()
    return numbers()


async def append(client: httpx.AsyncClient, deployment_id: str, line: int) -> None:
    """Append one line, which must be taken now."""
    answer = await client.post(
        f"/deployments/{deployment_id}/logs", json={"firstLine": line, "lines": [{"text": "after"}]}
    )
    assert answer.status_code == 200, answer.text


SETTINGS = {"OUTBOUND_BYTES": str(16 << 20), "OUTBOUND_MESSAGES": "100000"}
"""The subscriber reads only afterwards."""
LOUD = ("storage unavailable", "the records of")
"""What the log says of it, at ERROR."""


async def test_f59_a_database_at_its_limit_refuses_and_recovers(tmp_path: Path) -> None:
    """At the limit of the database: a clear 503, sockets stay, no half-written event; what is deleted makes room."""
    async with (
        faulty_world(tmp_path, {**SETTINGS, "DATABASE_MAX_BYTES": str(LIMIT_BYTES)}) as world,
        control(*world.control, may_be_refused=True, errors=LOUD) as running,
    ):
        async with (
            await world.socket(is_subscribed=True) as socket,
            world.server.client(world.tokens["admin"]) as client,
        ):
            victim, keeper = await create(client, "victim"), await create(client, "keeper")
            spare = await ended(client, "spare")
            await assert_holds_while_full(world, socket, client, victim)
            assert (await client.delete(f"/deployments/{spare}")).status_code == 204
            await append(client, keeper, 1)
            assert await events_of(socket, keeper, 1) == [1]
        await running.stop()
        measured("F59: refused by a database at its limit, then taken", f"{running.report['refused']} times", "0 lost")


async def ended(client: httpx.AsyncClient, name: str) -> str:
    """Make a deployment with some lines that has ended; return its id."""
    deployment_id = await create(client, name)
    lines = [{"text": "x" * LINE_BYTES}] * 100
    answer = await client.post(f"/deployments/{deployment_id}/logs", json={"firstLine": 1, "lines": lines})
    assert answer.status_code == 200, answer.text
    answer = await client.post(f"/deployments/{deployment_id}/cancel", json={})
    if answer.status_code == 202:
        answer = await client.put(f"/deployments/{deployment_id}/status", json={"status": "cancelled"})
    assert answer.status_code == 200, answer.text
    return deployment_id


async def test_f59_a_full_disk_refuses_and_recovers(small_disk: Path, tmp_path: Path) -> None:
    """On a full disk: a clear 503, sockets stay, no half-written event, and writing goes on when there is room."""
    async with faulty_world(tmp_path, {**SETTINGS, "DATA_DIR": str(small_disk / "data")}) as world:
        ballast = small_disk / "ballast"
        room = os.statvfs(small_disk)
        ballast.write_bytes(b"\0" * max(0, room.f_bavail * room.f_frsize - ROOM_BYTES))
        async with control(*world.control, may_be_refused=True, errors=LOUD) as running:
            async with (
                await world.socket(is_subscribed=True) as socket,
                world.server.client(world.tokens["admin"]) as client,
            ):
                deployment_id = await create(client, "victim")
                next_line = await assert_holds_while_full(world, socket, client, deployment_id)
                ballast.unlink()
                await append(client, deployment_id, next_line)
                lines = await events_of(socket, deployment_id, next_line)
                assert lines == list(range(1, next_line + 1))  # every line once, in order: nothing half-written
            await running.stop()
        measured("F59: refused on a full disk, then taken", f"{running.report['refused']} times", "0 lost")
