"""The specification's plugins, as files on a real server with three users of two organizations at once."""

import asyncio
import re
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from tests.docs.markdown_files import ROOT, blocks
from tests.integration.people import People, make_people
from tests.integration.server_process import ServerProcess, server_process
from tests.integration.sockets import Socket, open_socket
from tests.plugin_world import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXAMPLES = "tests/docs/specification_examples.txt"
SPECIFICATION = ROOT.parent / "shared" / "spec" / "websocket-plugin-system.md"
USERS = ("olga", "vic", "bob")

IMPORTS = """\
import asyncio

from sqlalchemy import select

from backend.app.models.user import User
from backend.app.schemas.websocket_events import WebSocketEventType
from backend.app.websocket.plugin import PluginContext, WebSocketPlugin

user_id = "nobody"

"""
"""What stands above the examples in the text around them."""

PROBE = '''

from backend.app.websocket.plugin import plugin_manager


class ProbePlugin(WebSocketPlugin):
    """Shows the inside of the other plugins to the test; `mark` writes into this connection's own state."""

    event_types = []
    message_types = ["mark", "show"]

    async def handle_message(self, message, context):
        copy = plugin_manager.instance_for(plugin_manager.get("my_custom"), context)
        if message["type"] == "mark":
            copy.some_state["marked_by"] = context.user.username
        names = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]
        return {"type": "shown", "data": {
            "own": copy.some_state,
            "shared": sorted(plugin_manager.get("state")._shared_state),
            "periodic_tasks": sum("_periodic_check" in name for name in names),
        }}
'''


def example(needle: str) -> str:
    """The one example that contains a text."""
    (found,) = [block.text for block in blocks(EXAMPLES, "python") if needle in block.text]
    return found


def as_class(name: str, event_type: str, needle: str) -> str:
    """An example that is a hook alone, in a class of its own."""
    head = f"class {name}(WebSocketPlugin):\n    event_types = [WebSocketEventType.{event_type}]\n\n"
    return head + textwrap.indent(example(needle), "    ")


FILES: dict[str, str] = {
    "custom.py": example("class MyCustomPlugin") + "\n\n" + example("default_plugins.append"),
    "state.py": example("class StatePlugin"),
    "periodic.py": example("class PeriodicPlugin"),
    "conditional.py": example("class ConditionalBroadcastPlugin"),
    "context.py": as_class("ContextPlugin", "NOTIFICATION_READ", "Accéder à l'utilisateur"),
    "database.py": as_class("DatabasePlugin", "DEPLOYMENT_CREATED", "Créer une nouvelle session"),
    "probe.py": PROBE,
}


@dataclass(frozen=True, slots=True)
class World:
    """A server with the specification's plugins, and its users."""

    server: ServerProcess
    people: People

    def messages(self) -> list[str]:
        """What was logged, in order."""
        return [record["message"] for record in self.server.logged()]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(module_database: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("specification")
    plugins = folder / "plugins"
    plugins.mkdir()
    for name, text in FILES.items():
        (plugins / name).write_text(IMPORTS + text, encoding="utf-8")
    settings = {"PLUGINS_DIR": str(plugins), "LOG_LEVEL": "DEBUG", **module_database}
    async with server_process(folder, settings) as server:
        yield World(server, await make_people(server))


@pytest_asyncio.fixture(loop_scope="module")
async def sockets(world: World) -> AsyncIterator[dict[str, Socket]]:
    """Three users of two organizations, connected at once and subscribed to everything."""
    async with AsyncExitStack() as stack:
        opened = {}
        for name in USERS:
            connection = open_socket(world.server.socket_url, world.people.tokens[name])
            opened[name] = await stack.enter_async_context(connection)
            await opened[name].ask("subscribe", {"event_type": "*"})
        yield opened


async def show(socket: Socket, command: str = "show") -> dict[str, Any]:
    """What the probe shows on a connection."""
    data: dict[str, Any] = (await socket.ask(command))["data"]
    return data


async def shown_until(socket: Socket, is_it: Callable[[dict[str, Any]], bool]) -> None:
    """Ask the probe until it shows what is waited for."""
    async with asyncio.timeout(10):
        while True:
            if is_it(await show(socket)):
                return
            await asyncio.sleep(0.1)  # a client may say 50 things at once


async def deploy(world: World, *statuses: str) -> str:
    """Create a deployment as olga and take it through statuses."""
    async with world.server.client(world.people.tokens["olga"]) as client:
        deployment_id: str = (await client.post("/deployments", json={"name": "web"})).json()["id"]
        for status in statuses:
            answer = await client.put(f"/deployments/{deployment_id}/status", json={"status": status})
            assert answer.status_code == 200, answer.text
        return deployment_id


async def test_the_examples_are_those_of_the_specification() -> None:
    """Every example is as printed."""
    if not SPECIFICATION.is_file():
        pytest.skip("no specification beside the repository: the examples are compared where it is")
    text = SPECIFICATION.read_text(encoding="utf-8")
    printed = [textwrap.dedent(match[1]) for match in re.finditer(r"^ *```python\n(.*?)^ *```", text, re.S | re.M)]
    assert [block.place for block in blocks(EXAMPLES) if block.text not in printed] == []


async def test_every_example_is_loaded_from_its_file(world: World) -> None:
    """Dans votre module : l'ajouter à la liste des plugins par défaut; a class in a file is registered as it is."""
    async with world.server.client(world.people.tokens["admin"]) as client:
        items = (await client.get("/plugins")).json()["items"]
    found = {item["name"]: (item["state"], item["reason"]) for item in items}
    names = ("my_custom", "state", "periodic", "conditional_broadcast", "context", "database", "probe")
    assert {name: found.get(name) for name in names} == dict.fromkeys(names, ("enabled", None))


async def test_the_custom_plugin_is_initialized_for_each_user(world: World, sockets: dict[str, Socket]) -> None:
    """Initialisation du plugin lors de la connexion WebSocket; traiter un changement de statut, once."""
    for name in USERS:
        assert f"MyCustomPlugin initialized for user {world.people.ids[name]}" in world.messages()
    deployment_id = await deploy(world, "running")
    sentence = f"Deployment {deployment_id} status changed to running"
    await sockets["vic"].until("DEPLOYMENT_STATUS_CHANGED")
    await until(lambda: sentence in world.messages())
    assert world.messages().count(sentence) == 1


async def test_what_initialize_makes_belongs_to_one_connection(world: World, sockets: dict[str, Socket]) -> None:
    """Libérer les ressources: a connection that ends clears its own state and nobody else's."""
    for name in USERS:
        assert (await show(sockets[name]))["own"] == {}
        await show(sockets[name], "mark")
    cleaned = world.messages().count("MyCustomPlugin cleaned up")
    await sockets["vic"].connection.close()
    await until(lambda: world.messages().count("MyCustomPlugin cleaned up") == cleaned + 1)
    assert [(await show(sockets[name]))["own"] for name in ("olga", "bob")] == [
        {"marked_by": "olga"},
        {"marked_by": "bob"},
    ]


async def test_there_is_one_periodic_task_for_each_connection(world: World, sockets: dict[str, Socket]) -> None:
    """Démarrer une tâche périodique; arrêter la tâche périodique: one per connection, gone with it."""
    assert (await show(sockets["olga"]))["periodic_tasks"] == 3
    await sockets["vic"].connection.close()
    await shown_until(sockets["olga"], lambda data: data["periodic_tasks"] == 2)
    await sockets["bob"].connection.close()
    await shown_until(sockets["olga"], lambda data: data["periodic_tasks"] == 1)


async def test_the_shared_state_is_seen_from_every_connection(world: World, sockets: dict[str, Socket]) -> None:
    """État partagé entre toutes les instances: declares no types, so it holds every type that came."""
    await deploy(world, "running")
    await shown_until(sockets["bob"], lambda data: "DEPLOYMENT_STATUS_CHANGED" in data["shared"])
    shown = [(await show(sockets[name]))["shared"] for name in USERS]
    assert shown[0] == shown[1] == shown[2]
    assert {"AUTH_LOGIN_SUCCESS", "DEPLOYMENT_CREATED", "DEPLOYMENT_STATUS_CHANGED"} <= set(shown[0])


async def test_only_failures_are_broadcast_and_only_to_the_organization(
    world: World, sockets: dict[str, Socket]
) -> None:
    """Ne broadcaster que si le statut est "failed"; nobody of another organization sees it."""
    deployment_id = await deploy(world, "running", "failed")
    for name in ("olga", "vic"):
        sent = await sockets[name].until("NOTIFICATION_SENT")
        assert sent["data"]["title"] == "Deployment Failed"
        assert sent["data"]["message"] == f"Deployment {deployment_id} failed"
    await deploy(world, "running", "success")
    await sockets["olga"].until(lambda message: message["data"].get("newStatus") == "success")
    await sockets["bob"].ask("ping")
    assert [message["type"] for message in sockets["olga"].seen].count("NOTIFICATION_SENT") == 1
    assert {"NOTIFICATION_SENT", "DEPLOYMENT_CREATED"}.isdisjoint(message["type"] for message in sockets["bob"].seen)


async def test_the_context_reaches_the_user_and_the_subscribers(world: World, sockets: dict[str, Socket]) -> None:
    """Broadcaster à l'utilisateur actuel; broadcaster à tous les abonnés d'un événement."""
    async with world.server.client(world.people.tokens["olga"]) as client:
        sent = await client.post("/notifications", json={"title": "Hello", "message": "there"})
    await sockets["vic"].ask("NOTIFICATION_READ", {"notificationIds": [sent.json()["id"]]})
    note = await sockets["vic"].until("custom_notification")
    assert note["message"] == "Event processed"
    for name in ("olga", "vic"):
        assert (await sockets[name].until("CUSTOM_EVENT"))["data"] == {"data": "some data"}
    for name in ("olga", "bob"):
        await sockets[name].ask("ping")
        assert "custom_notification" not in [message["type"] for message in sockets[name].seen]
    assert "CUSTOM_EVENT" not in [message["type"] for message in sockets["bob"].seen]


async def test_everything_is_gone_after_the_last_disconnect(world: World) -> None:
    """All gone after disconnect: every initialize has its cleanup, no task is left, no plugin failed."""

    def count(start: str) -> int:
        return sum(message.startswith(start) for message in world.messages())

    initialized = "MyCustomPlugin initialized for user "
    await until(lambda: count(initialized) == count("MyCustomPlugin cleaned up") > 0)
    async with open_socket(world.server.socket_url, world.people.tokens["olga"]) as socket:
        assert (await show(socket))["periodic_tasks"] == 1  # of this connection
    async with world.server.client(world.people.tokens["admin"]) as client:
        items = (await client.get("/plugins")).json()["items"]
    assert {item["name"]: item["lastError"] for item in items if item["failures"]} == {}


async def test_no_example_is_left_out() -> None:
    """Every example of the file is one of the plugin files."""
    written = "".join(FILES.values())
    left = [block.place for block in blocks(EXAMPLES) if textwrap.dedent(block.text).splitlines()[0] not in written]
    assert left == []
