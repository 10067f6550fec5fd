"""A server is killed in the middle and started again: every plugin sees every acknowledged stream event."""

import asyncio
import contextlib
import itertools
import random
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.metrics_page import metric
from tests.integration.recording_plugin import Recording
from tests.integration.server_process import ServerProcess, server_process
from tests.plugin_world import until
from tests.proving import amount, measured
from tests.services import database_name
from tests.waiting import eventually

LEASE = {"NODE_LEASE_SECONDS": "1"}


def settings_of(recording: Recording, database: dict[str, str], **more: str) -> dict[str, str]:
    """Settings of a server with the recording plugin."""
    return {"PLUGINS_DIR": str(recording.folder), "INBOUND_PER_MINUTE": "100000", **LEASE, **database, **more}


async def create(client: httpx.AsyncClient, name: str) -> str:
    """Create a deployment: one acknowledged stream event, whose subject is returned."""
    answer = await client.post("/deployments", json={"name": name})
    answer.raise_for_status()
    deployment_id: str = answer.json()["id"]
    return deployment_id


async def publish_until_killed(server: ServerProcess, token: str, publishers: int, acknowledged: list[str]) -> None:
    """Create deployments and move them on, with several publishers, until the server is gone.

    Adds subject and type of every event that was acknowledged.
    """

    async def publish(number: int) -> None:
        async with server.client(token) as client:
            for turn in itertools.count():
                deployment = await create(client, f"d{number}-{turn}")
                acknowledged.append(f"{deployment} DEPLOYMENT_CREATED")
                answer = await client.put(f"/deployments/{deployment}/status", json={"status": "running"})
                answer.raise_for_status()
                acknowledged.append(f"{deployment} DEPLOYMENT_STATUS_CHANGED")

    async def until_gone(number: int) -> None:
        with contextlib.suppress(httpx.TransportError):
            await publish(number)

    await asyncio.gather(*(until_gone(number) for number in range(publishers)))


def seen(recording: Recording) -> set[str]:
    """Return subject and type of what was handled."""
    return {f"{entry['subject']} {entry['type']}" for entry in recording.handled()}


def assert_same_ids_and_order(entries: list[dict[str, Any]]) -> None:
    """An event that is handled again has the same id, and those of one subject come in order."""
    by_event: dict[tuple[str, str], set[str]] = {}
    first: dict[str, list[int]] = {}
    for entry in entries:
        by_event.setdefault((entry["subject"], entry["type"]), set()).add(entry["id"])
        offsets = first.setdefault(entry["subject"], [])
        if entry["offset"] not in offsets:
            offsets.append(entry["offset"])
    assert all(len(ids) == 1 for ids in by_event.values())
    assert all(offsets == sorted(offsets) for offsets in first.values())


async def test_killed_at_random_moments_no_plugin_misses_an_acknowledged_event(
    own_database: dict[str, str], tmp_path: Path
) -> None:
    """Crash suite: every plugin saw every acknowledged stream event at least once, with the same id."""
    recording = Recording(tmp_path)
    settings = settings_of(recording, own_database)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    acknowledged: list[str] = []
    rounds = amount(2, 20)
    for _ in range(rounds):
        async with server_process(tmp_path, settings) as server:
            before = len(acknowledged)
            publishing = asyncio.create_task(publish_until_killed(server, await server.login(), 8, acknowledged))
            await until(lambda before=before: len(acknowledged) > before, 60)  # type: ignore[misc]
            await asyncio.sleep(chance.uniform(0, 1.5))
            server.process.send_signal(signal.SIGKILL)
            await publishing
    async with server_process(tmp_path, settings) as server, server.client(await server.login()) as client:

        async def all_are_seen() -> bool:
            return set(acknowledged) <= seen(recording)

        await eventually(all_are_seen)

        async def nothing_waits() -> bool:
            return bool((await client.get("/plugins/recording")).json()["waiting"] == 0)

        await eventually(nothing_waits)
    entries = recording.handled()
    assert len(set(acknowledged)) >= rounds
    assert_same_ids_and_order(entries)
    again = len(entries) - len(set(recording.ids()))
    kept = database_name(own_database)
    measured(
        f"Plugin events after {rounds} kills, {kept}", f"0 of {len(acknowledged)} missing", f"{again} handled again"
    )


@pytest.mark.parametrize("fault", ["after_commit:40", "before_plugin_cursor:2"])
async def test_killed_at_a_named_point_no_plugin_misses_an_acknowledged_event(
    own_database: dict[str, str], tmp_path: Path, fault: str
) -> None:
    """The same at every named point: before anybody hears of a commit, and before a cursor is written."""
    recording = Recording(tmp_path)
    settings = settings_of(recording, own_database)
    faults = {"TEST_FAULTS": "1", "FAULT": fault}
    async with server_process(tmp_path, settings):
        pass  # The first start has work of its own.
    async with server_process(tmp_path, settings | faults) as server:
        acknowledged: list[str] = []
        await publish_until_killed(server, await server.login(), 4, acknowledged)
        assert await server.process.wait() == -signal.SIGKILL
    async with server_process(tmp_path, settings):

        async def all_are_seen() -> bool:
            return set(acknowledged) <= seen(recording)

        await eventually(all_are_seen)
    assert acknowledged
    assert_same_ids_and_order(recording.handled())


async def test_what_a_dead_server_left_is_handled_once_by_the_next_one(
    own_database: dict[str, str], tmp_path: Path
) -> None:
    """Take-over: the new node handles what the dead one left, with the caller; then nothing of it is left."""
    recording = Recording(tmp_path)
    settings = settings_of(recording, own_database, PLUGIN_TIMEOUT_SECONDS="60", PLUGIN_QUEUE="4")
    recording.close_gate()
    async with server_process(tmp_path, settings) as server, server.client(await server.login()) as client:
        subjects = [await create(client, f"d{number}") for number in range(20)]
        server.process.send_signal(signal.SIGKILL)
        await server.process.wait()
    assert recording.handled() == []
    recording.open_gate()
    async with server_process(tmp_path, settings) as server, server.client(await server.login()) as client:

        async def all_are_handled() -> bool:
            return len(recording.ids()) >= len(subjects)

        await eventually(all_are_handled)
        subjects.append(await create(client, "own"))
        await eventually(all_are_handled)
        assert await metric(server.url, "windflow_nodes_taken_over_total") >= 1
    entries = recording.handled()
    assert sorted(entry["subject"] for entry in entries) == sorted(subjects)
    assert len(set(recording.ids())) == len(subjects)
    assert {entry["user"] for entry in entries} == {"admin"}
    # Stopped in order: the next start has nothing to take over for this plugin.
    async with server_process(tmp_path, settings):
        await asyncio.sleep(2)
    assert len(recording.ids()) == len(subjects)


async def test_two_servers_one_dies_the_other_takes_over(tmp_path: Path, own_database: dict[str, str]) -> None:
    """On PostgreSQL what a dead node left is taken over when its lease ends, by another that runs."""
    if "DATABASE_URL" not in own_database:
        pytest.skip("one server per SQLite file")
    recording = Recording(tmp_path)
    settings = settings_of(recording, own_database, PLUGIN_TIMEOUT_SECONDS="60")
    second = {**settings, "DATA_DIR": str(tmp_path / "second")}
    recording.close_gate()
    async with server_process(tmp_path / "a", settings | {"DATA_DIR": str(tmp_path / "data")}) as first:
        async with first.client(await first.login()) as client:
            subjects = [await create(client, f"d{number}") for number in range(10)]
        async with server_process(tmp_path / "b", second) as other:
            pids = {first.process.pid, other.process.pid}
            first.process.send_signal(signal.SIGKILL)
            await first.process.wait()
            recording.open_gate()

            async def all_are_handled() -> bool:
                return len(recording.ids()) >= len(subjects)

            await eventually(all_are_handled)
            assert {entry["pid"] for entry in recording.handled()} == {other.process.pid} < pids
    assert sorted(entry["subject"] for entry in recording.handled()) == sorted(subjects)


async def test_a_server_that_was_taken_for_dead_goes_on_as_a_new_node(
    tmp_path: Path, own_database: dict[str, str]
) -> None:
    """R10: a stopped process that wakes up changes nothing that is another's; it takes a new id and goes on."""
    if "DATABASE_URL" not in own_database:
        pytest.skip("one server per SQLite file")
    recording = Recording(tmp_path)
    settings = settings_of(recording, own_database)
    second = {**settings, "DATA_DIR": str(tmp_path / "second")}
    async with (
        server_process(tmp_path / "a", settings | {"DATA_DIR": str(tmp_path / "data")}) as first,
        server_process(tmp_path / "b", second) as other,
    ):
        token = await first.login()
        async with first.client(token) as client:
            subjects = [await create(client, "before")]
            first.process.send_signal(signal.SIGSTOP)
            try:

                async def is_taken_over() -> bool:
                    return await metric(other.url, "windflow_nodes_taken_over_total") >= 1

                await eventually(is_taken_over)
            finally:
                first.process.send_signal(signal.SIGCONT)
            refused = 0

            async def goes_on() -> bool:
                nonlocal refused
                answer = await client.post("/deployments", json={"name": f"after{refused}"})
                if answer.status_code == 503:
                    refused += 1
                    return False
                answer.raise_for_status()
                subjects.append(answer.json()["id"])
                return True

            await eventually(goes_on)
            assert await metric(first.url, "windflow_node_lost_total") == 1

            async def all_are_handled() -> bool:
                return set(subjects) <= {entry["subject"] for entry in recording.handled()}

            await eventually(all_are_handled)
