"""Row F24: access ends or changes while four sockets of the user are open and somebody publishes without a pause."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import httpx
import pytest
import pytest_asyncio

from tests.faults.faulty_world import LOGS, Publisher, World, faulty_world
from tests.faults.raw_socket import RawSocket
from tests.integration.event_stream import EventClient, follow
from tests.integration.server_process import PASSWORD

pytestmark = pytest.mark.asyncio(loop_scope="module")

WITHIN_SECONDS = 2.0
_LINE = re.compile(r'"(\d{10})x')


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory, module_database: dict[str, str]) -> AsyncIterator[World]:
    async with faulty_world(tmp_path_factory.mktemp("revocation"), module_database) as made:
        yield made


def lines_in(messages: Sequence[object]) -> list[int]:
    """Return the numbers of the lines that messages carried."""
    return [int(number) for number in _LINE.findall(json.dumps(messages))]


@dataclass(frozen=True, slots=True)
class Victim:
    """A user with two browser sessions, an API token and an event stream, all of which get every line."""

    id: str
    tokens: Sequence[str]
    """Of the two sessions."""
    sockets: Sequence[RawSocket]
    """One for each session, and one for the API token."""
    stream: EventClient

    def lines(self) -> list[list[int]]:
        """Return what each of the four has got so far."""
        return [
            *(lines_in(socket.texts) for socket in self.sockets),
            lines_in([each.data for each in self.stream.seen]),
        ]


async def make_victim(stack: AsyncExitStack, world: World, admin: httpx.AsyncClient, name: str) -> Victim:
    """Make the user and open everything."""
    made = await admin.post("/users", json={"username": name, "role": "operator", "password": PASSWORD})
    assert made.status_code == 201, made.text
    tokens = [await world.server.login(name) for _ in range(2)]
    async with world.server.client(tokens[0]) as client:
        api_token = (await client.post("/auth/tokens", json={"name": "ci", "role": "operator"})).json()["secret"]
    sockets = []
    for token in (*tokens, api_token):
        socket = stack.enter_context(await RawSocket.connect(world.server.url))
        await socket.authenticate(token, subscriptions=[LOGS])
        sockets.append(socket)
    types = "DEPLOYMENT_LOGS_UPDATE"
    stream = await stack.enter_async_context(follow(world.server.url, tokens[1], types=types))
    return Victim(made.json()["id"], tokens, sockets, stream)


async def publish_on(publisher: Publisher) -> None:
    """Publish line after line until it is cancelled."""
    while True:
        await publisher.publish(1)
        await asyncio.sleep(0.005)


Act = Callable[[World, httpx.AsyncClient, Victim], Awaitable[httpx.Response]]
ALL = (0, 1, 2, 3)
"""The first session's socket, the second one's, the API token's, and the event stream of the second session."""


async def run(
    world: World, name: str, act: Act, *, ended: Sequence[int], lost: Sequence[int]
) -> tuple[Victim, list[tuple[int, str]]]:
    """Do the act under traffic: some of the four end in time, and those that lost the right get nothing after it.

    The others go on. Return the victim and how its sockets were closed.
    """
    async with AsyncExitStack() as stack:
        admin = await stack.enter_async_context(world.server.client(world.tokens["admin"]))
        victim = await make_victim(stack, world, admin, name)
        publisher = await stack.enter_async_context(world.publisher())
        publishing = asyncio.create_task(publish_on(publisher))
        reading = [asyncio.create_task(socket.closed(60)) for socket in victim.sockets]
        streaming = asyncio.create_task(victim.stream.end())
        tasks = [*reading, streaming]
        try:
            async with asyncio.timeout(20):
                while not all(victim.lines()):  # noqa: ASYNC110 - another process decides
                    await asyncio.sleep(0.05)
            answer = await act(world, admin, victim)
            assert answer.is_success, answer.text
            # The line that is on its way now may have been committed before the act.
            last_allowed = publisher.next_line
            if ended:
                _, waiting = await asyncio.wait([tasks[each] for each in ended], timeout=WITHIN_SECONDS)
                assert not waiting, "every socket of it ends in time"
            async with asyncio.timeout(30):
                while publisher.next_line < last_allowed + 20:  # noqa: ASYNC110 - another process decides
                    await asyncio.sleep(0.05)
            await asyncio.sleep(WITHIN_SECONDS / 2)  # what was sent by mistake would come now
            assert [place for place in ALL if tasks[place].done()] == list(ended)
            after = [any(line > last_allowed for line in lines) for lines in victim.lines()]
            assert after == [place not in lost for place in ALL]
            return victim, [task.result() for task in reading if task.done()]
        finally:
            for task in (publishing, *tasks):
                task.cancel()
            await asyncio.gather(publishing, *tasks, return_exceptions=True)


async def deactivate(_: World, admin: httpx.AsyncClient, victim: Victim) -> httpx.Response:
    return await admin.patch(f"/users/{victim.id}", json={"isActive": False})


async def delete(_: World, admin: httpx.AsyncClient, victim: Victim) -> httpx.Response:
    return await admin.delete(f"/users/{victim.id}")


async def logout(world: World, _: httpx.AsyncClient, victim: Victim) -> httpx.Response:
    async with world.server.client(victim.tokens[1]) as client:
        return await client.post("/auth/logout")


async def logout_everywhere(world: World, _: httpx.AsyncClient, victim: Victim) -> httpx.Response:
    async with world.server.client(victim.tokens[0]) as client:
        return await client.post("/auth/logout", json={"all": True})


async def change_password(world: World, _: httpx.AsyncClient, victim: Victim) -> httpx.Response:
    async with world.server.client(victim.tokens[0]) as client:
        body = {"currentPassword": PASSWORD, "newPassword": PASSWORD + "!"}
        return await client.put("/auth/password", json=body)


async def disconnect(world: World, admin: httpx.AsyncClient, victim: Victim) -> httpx.Response:
    async with world.server.client(victim.tokens[1]) as client:
        session_id = (await client.get("/auth/me")).json()["sessionId"]
    return await admin.delete(f"/auth/sessions/{session_id}")


@pytest.mark.parametrize(
    ("act", "ended", "reason"),
    [
        (deactivate, ALL, "user_deactivated"),
        (delete, ALL, "user_deleted"),
        (logout, (1, 3), "logout"),
        (logout_everywhere, (0, 1, 3), "logout_everywhere"),
        (change_password, (1, 3), "password_changed"),
        (disconnect, (1, 3), "ended_by_admin"),
    ],
)
async def test_f24_what_lost_its_access_ends_and_gets_nothing_any_more(
    world: World, act: Act, ended: Sequence[int], reason: str
) -> None:
    """Closed 4503 within 2 s, nothing is sent after the acknowledgement; other sessions and API tokens go on."""
    _, closes = await run(world, act.__name__, act, ended=ended, lost=ended)
    assert closes == [(4503, reason)] * len([place for place in ended if place != 3])


async def test_f24_a_user_of_another_organization_keeps_the_sockets_and_loses_the_events(world: World) -> None:
    """Moved: the sockets stay, what they had subscribed is taken away and told, and nothing foreign is sent."""
    async with world.server.client(world.tokens["admin"]) as client:
        other = (await client.post("/organizations", json={"name": "elsewhere"})).json()["id"]

    async def move(_: World, admin: httpx.AsyncClient, victim: Victim) -> httpx.Response:
        return await admin.patch(f"/users/{victim.id}", json={"organizationId": other})

    victim, closes = await run(world, "mover", move, ended=(), lost=ALL)
    assert closes == []
    for socket in victim.sockets:
        types = [message["type"] for message in socket.texts]
        assert "subscription_removed" in types
        assert "SESSION_ORGANIZATION_CHANGED" in types
    assert "subscription_removed" in [item.event for item in victim.stream.seen]
