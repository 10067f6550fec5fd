"""Row F43: plugins are replaced on a running server: no socket closes, each event is handled once."""

import asyncio
import itertools
import json
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
from websockets.protocol import State

from tests.integration.metrics_page import metric
from tests.integration.reloading_plugin import BREAKS, Turning
from tests.integration.server_process import server_process
from tests.integration.sockets import Socket, open_socket
from tests.proving import amount, measured
from tests.services import database_name
from tests.waiting import eventually

SETTINGS = {
    "INBOUND_PER_MINUTE": "1000000",
    "MAX_CONNECTIONS_PER_USER": "1000",
    "MAX_CONNECTIONS_PER_IP": "1000",
    "BREAKER_FAILURES": "3",
}


async def notify(client: httpx.AsyncClient, title: str) -> None:
    """Publish one stream event."""
    answer = await client.post("/notifications", json={"title": title, "message": "m"})
    answer.raise_for_status()


async def test_f43_twenty_reloads_under_load_close_no_socket_and_lose_no_event(
    own_database: dict[str, str], tmp_path: Path
) -> None:
    """200 sockets, 20 subscribed, 200 events/s, 20 reloads of which 3 are broken: nothing closed, all handled once."""
    turning = Turning(tmp_path)
    sockets, subscribed, rate, reloads = amount(20, 200), amount(4, 20), amount(50, 200), amount(7, 20)
    broken = dict(zip((1, reloads // 2, reloads - 2), BREAKS, strict=True))
    settings = {"PLUGINS_DIR": str(turning.folder), **SETTINGS, **own_database}
    async with server_process(tmp_path, settings) as server, AsyncExitStack() as stack:
        token = await server.login()
        client = await stack.enter_async_context(server.client(token))
        opened: list[Socket] = []
        for _ in range(sockets):
            opened.append(await stack.enter_async_context(open_socket(server.socket_url, token)))
        for socket in opened[:subscribed]:
            await socket.ask("subscribe", {"event_type": "NOTIFICATION_SENT"})
        seen: dict[int, list[str]] = {number: [] for number in range(sockets)}

        async def read(number: int) -> None:
            async for text in opened[number].connection:
                message = json.loads(text)
                if message["type"] == "NOTIFICATION_SENT":
                    seen[number].append(message["data"]["title"])

        reading = [asyncio.create_task(read(number)) for number in range(sockets)]
        sent: list[str] = []
        is_over = asyncio.Event()

        async def publish(publisher: int) -> None:
            for number in itertools.count():
                if is_over.is_set():
                    return
                title = f"n{publisher}-{number}"
                await notify(client, title)
                sent.append(title)
                await asyncio.sleep(8 / rate)

        publishing = [asyncio.create_task(publish(number)) for number in range(8)]
        good, generation = [1], 1
        try:
            for turn in range(reloads):
                generation += 1
                reason = turning.write(generation, broken.get(turn))
                before = len(sent)
                answer = await client.post("/plugins/turning/reload")
                if turn in broken:
                    assert answer.status_code == 409, answer.text
                    assert answer.json()["code"] == "reload_failed"
                    assert reason in answer.json()["details"]["reason"]
                    shown = (await client.get("/plugins/turning")).json()
                    assert reason in shown["reloadError"]
                    assert shown["state"] == "enabled"
                    assert shown["breaker"] == "closed"
                else:
                    assert answer.status_code == 200, answer.text
                    good.append(generation)
                    assert answer.json()["generation"] == len(good)

                async def some_more(count: int = before + 5) -> bool:
                    return len(sent) >= count

                await eventually(some_more)
        finally:
            is_over.set()
            await asyncio.gather(*publishing)

        async def all_are_handled() -> bool:
            return {entry["title"] for entry in turning.noted("handle_event")} >= set(sent)

        async def all_are_delivered() -> bool:
            return all(sorted(seen[number]) == sorted(sent) for number in range(subscribed))

        await eventually(all_are_handled)
        handled = turning.noted("handle_event")
        assert len(handled) == len({entry["event"] for entry in handled}) == len(sent)
        assert {entry["generation"] for entry in handled} <= set(good)
        assert len({entry["generation"] for entry in handled}) > len(good) // 2
        await eventually(all_are_delivered)
        closed = sum(socket.connection.state is not State.OPEN for socket in opened)
        assert closed == 0
        assert await metric(server.url, 'windflow_plugin_reloads_total{outcome="ok",plugin="turning"}') == reloads - 3
        assert await metric(server.url, 'windflow_plugin_reloads_total{outcome="failed",plugin="turning"}') == 3
        # Every generation that began has ended, and every copy was cleaned up.
        stops = [entry["generation"] for entry in turning.noted("shutdown")]
        starts = [entry["generation"] for entry in turning.noted("startup")]
        assert sorted([*stops, good[-1]]) == sorted(starts)
        for number in good:
            assert sum(entry["generation"] == number for entry in turning.noted("initialize")) == sockets
            cleaned = sum(entry["generation"] == number for entry in turning.noted("cleanup"))
            assert cleaned == (0 if number == good[-1] else sockets)
    await asyncio.gather(*reading)
    measured(
        f"{reloads} reloads, 3 broken, {sockets} sockets, {database_name(own_database)}",
        f"0 sockets closed, 0 of {len(sent)} events lost or handled twice",
        f"{rate} events/s wanted",
    )
