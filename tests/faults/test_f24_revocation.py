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


async def run(
    world: World,
    name: str,
    act: Callable[[httpx.AsyncClient, Victim], Awaitable[httpx.Response]],
    *,
    is_access_over: bool,
) -> tuple[Victim, list[tuple[int, str]]]:
    """Do the act under traffic; assert that nothing left the server after its acknowledgement.

    Return the victim and how its sockets were closed, none where they stay.
    """
    async with AsyncExitStack() as stack:
        admin = await stack.enter_async_context(world.server.client(world.tokens["admin"]))
        victim = await make_victim(stack, world, admin, name)
        publisher = await stack.enter_async_context(world.publisher())
        publishing = asyncio.create_task(publish_on(publisher))
        reading = [asyncio.create_task(socket.closed(60)) for socket in victim.sockets]
        streaming = asyncio.create_task(victim.stream.end())
        try:
            async with asyncio.timeout(20):
                while not all(victim.lines()):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            answer = await act(admin, victim)
            assert answer.is_success, answer.text
            # The line that is on its way now may have been committed before the act.
            last_allowed = publisher.next_line
            if is_access_over:
                ended, waiting = await asyncio.wait([*reading, streaming], timeout=WITHIN_SECONDS)
                assert not waiting, "every socket ends in time"
            async with asyncio.timeout(30):
                while publisher.next_line < last_allowed + 20:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            if not is_access_over:
                await asyncio.sleep(WITHIN_SECONDS / 2)  # what was sent by mistake would come now
                assert not [task for task in reading if task.done()], "the sockets stay"
            foreign = [[line for line in lines if line > last_allowed] for lines in victim.lines()]
            assert foreign == [[]] * 4
            return victim, [task.result() for task in reading if task.done()]
        finally:
            for task in (publishing, streaming, *reading):
                task.cancel()
            await asyncio.gather(publishing, streaming, *reading, return_exceptions=True)


async def test_f24_a_deactivated_user_gets_nothing_any_more(world: World) -> None:
    """Deactivated: every socket is closed 4503 within 2 s, and nothing is sent after the acknowledgement."""
    _, closes = await run(
        world,
        "idle",
        lambda admin, victim: admin.patch(f"/users/{victim.id}", json={"isActive": False}),
        is_access_over=True,
    )
    assert closes == [(4503, "user_deactivated")] * 3


async def test_f24_a_deleted_user_gets_nothing_any_more(world: World) -> None:
    """Deleted: the same."""
    _, closes = await run(world, "gone", lambda admin, victim: admin.delete(f"/users/{victim.id}"), is_access_over=True)
    assert closes == [(4503, "user_deleted")] * 3


async def test_f24_a_user_of_another_organization_keeps_the_sockets_and_loses_the_events(world: World) -> None:
    """Moved: the sockets stay, what they had subscribed is taken away and told, and nothing foreign is sent."""
    async with world.server.client(world.tokens["admin"]) as client:
        other = (await client.post("/organizations", json={"name": "elsewhere"})).json()["id"]
    victim, closes = await run(
        world,
        "mover",
        lambda admin, victim: admin.patch(f"/users/{victim.id}", json={"organizationId": other}),
        is_access_over=False,
    )
    assert closes == []
    for socket in victim.sockets:
        types = [message["type"] for message in socket.texts]
        assert "subscription_removed" in types
        assert "SESSION_ORGANIZATION_CHANGED" in types
    assert "subscription_removed" in [item.event for item in victim.stream.seen]
