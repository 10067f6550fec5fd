"""The dispatcher: each event once to each plugin, in order per subject, bounded; no plugin hinders another."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from backend.app import metrics
from backend.app.auth.permissions import Principal
from backend.app.realtime.event import Event, new_event
from backend.app.schemas.roles import Role
from backend.app.schemas.websocket_events import core_catalogue
from backend.app.websocket.dispatcher import Dispatcher
from backend.app.websocket.plugin import PluginContext, WebSocketPlugin, WebSocketPluginManager
from tests.dispatch_world import make_dispatcher
from tests.plugin_world import make_manager, make_plugin, until, within

CATALOGUE = core_catalogue()


def event_of(deployment_id: str = "d1", status: str = "running") -> Event:
    """An event of a deployment."""
    payload = {"deploymentId": deployment_id, "newStatus": status}
    return new_event(
        CATALOGUE["DEPLOYMENT_STATUS_CHANGED"], "o1", payload, actor=Principal("u", "u", "o1", Role.VIEWER)
    )


def dispatcher_of(manager: WebSocketPluginManager, queue: int = 100) -> Dispatcher:
    """A dispatcher of its own; the plugins here broadcast nothing."""
    return make_dispatcher(manager, plugin_queue=queue)


class Recorder(WebSocketPlugin):
    """Keeps the ids of the deployments it is told of, and waits at a gate if there is one."""

    def __init__(self, name: str = "recorder") -> None:
        self.name = name
        self.seen: list[str] = []
        self.gate: asyncio.Event | None = None
        self.began = 0

    async def handle_event(self, event_type: str, event_data: dict[str, Any], context: PluginContext) -> None:
        self.began += 1
        if self.gate is not None:
            await self.gate.wait()
        self.seen.append(event_data["deploymentId"])


@dataclass
class DataPlugin(WebSocketPlugin):
    """A dataclass has no hash."""

    seen: int = 0

    async def handle_event(self, event_type: str, event_data: dict[str, Any], context: PluginContext) -> None:
        self.seen += 1


async def test_a_plugin_without_a_hash_is_called_like_any_other() -> None:
    """What a plugin's author writes hinders neither this plugin nor another one."""
    first, last = DataPlugin(), Recorder()
    dispatcher = dispatcher_of(make_manager(first, last))
    dispatcher(event_of())
    await until(lambda: bool(first.seen and last.seen))


async def test_two_equal_plugins_are_two() -> None:
    """An event is dispatched once to each plugin, also to plugins that compare equal."""

    class Equal(Recorder):
        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 1

    first, second = Equal("first"), Equal("second")
    dispatcher = dispatcher_of(make_manager(first, second))
    dispatcher(event_of())
    await until(lambda: bool(first.seen and second.seen))


async def test_a_plugin_whose_event_types_fail_later_is_left_out() -> None:
    """A plugin that raises anything is logged; everyone else goes on."""

    class Fickle(Recorder):
        is_broken = False

        @property
        def event_types(self) -> None:  # type: ignore[override]
            if self.is_broken:
                raise SystemExit(1)

    fickle, other = Fickle("fickle"), Recorder("other")
    manager = make_manager(fickle, other)
    fickle.is_broken = True
    dispatcher_of(manager)(event_of())
    await until(lambda: bool(other.seen))
    assert not fickle.seen


async def test_events_of_one_subject_keep_their_order_and_others_run_beside() -> None:
    """For one plugin, events of one subject keep their order, different subjects run side by side."""
    plugin = Recorder()
    plugin.gate = asyncio.Event()
    dispatcher = dispatcher_of(make_manager(plugin, timeout_seconds=10))
    for deployment_id in ("d1", "d1", "d2"):
        dispatcher(event_of(deployment_id))
    await until(lambda: plugin.began == 2)
    plugin.gate.set()
    await until(lambda: len(plugin.seen) == 3)
    assert sorted(plugin.seen) == ["d1", "d1", "d2"]


async def test_a_full_queue_drops_for_that_plugin_alone_and_counts() -> None:
    """Bounded queue per plugin: what it does not take is dropped for it and counted."""
    slow, quick = Recorder("slow"), Recorder("quick")
    slow.gate = asyncio.Event()
    dispatcher = dispatcher_of(make_manager(slow, quick, timeout_seconds=10), queue=3)
    before = metrics.EVENTS_DROPPED.labels("plugin")._value.get()
    for number in range(5):
        dispatcher(event_of(f"d{number}"))
        await until(lambda count=number + 1: len(quick.seen) == count)  # type: ignore[misc]
    assert metrics.EVENTS_DROPPED.labels("plugin")._value.get() == before + 2
    slow.gate.set()
    await until(lambda: len(slow.seen) == 3)


async def test_an_unregistered_plugin_finishes_what_runs_and_gets_nothing_more() -> None:
    """Letting go of a plugin: its running events finish, the waiting ones are dropped and counted."""
    plugin = Recorder()
    plugin.gate = asyncio.Event()
    manager = make_manager(plugin, timeout_seconds=10)
    dispatcher = dispatcher_of(manager)
    undo = manager.on_unregistered(dispatcher.forget)
    before = metrics.EVENTS_DROPPED.labels("plugin")._value.get()
    for _ in range(3):
        dispatcher(event_of("d1"))
    await until(lambda: plugin.began == 1)
    manager.unregister("recorder")
    assert metrics.EVENTS_DROPPED.labels("plugin")._value.get() == before + 2
    dispatcher(event_of("d2"))
    plugin.gate.set()
    await within(dispatcher.stop(5))
    assert plugin.seen == ["d1"]
    assert metrics.PLUGIN_QUEUE.labels("recorder")._value.get() == 0
    undo()


async def test_what_an_unregistered_plugin_still_runs_is_waited_for_at_the_stop() -> None:
    """Every task is owned and awaited: also that of a plugin that was let go of."""
    plugin = Recorder()
    plugin.gate = asyncio.Event()
    dispatcher = dispatcher_of(make_manager(plugin, timeout_seconds=10))
    dispatcher(event_of())
    await until(lambda: plugin.began == 1)
    dispatcher.forget(plugin)
    stopping = asyncio.create_task(dispatcher.stop(10))
    await asyncio.sleep(0)
    assert not stopping.done()
    plugin.gate.set()
    await within(_result(stopping))
    assert plugin.seen == ["d1"]


async def _result(task: "asyncio.Task[None]") -> None:
    await task


async def test_after_the_stop_no_plugin_is_called() -> None:
    """A plugin's hooks end with `shutdown`: an event that comes after the stop reaches no plugin."""
    plugin = Recorder()
    dispatcher = dispatcher_of(make_manager(plugin))
    dispatcher(event_of("d1"))
    await within(dispatcher.stop(5))
    assert plugin.seen == ["d1"]
    dispatcher(event_of("d2"))
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1
    assert plugin.seen == ["d1"]


@pytest.mark.parametrize("way", ["unregister", "replace"])
async def test_the_registry_tells_who_left(way: str) -> None:
    """What keeps something for a plugin hears when it goes."""
    manager = make_manager(old := make_plugin())
    gone: list[WebSocketPlugin] = []
    undo = manager.on_unregistered(gone.append)
    if way == "unregister":
        manager.unregister("probe")
    else:
        manager.register(make_plugin(), replace=True)
    assert gone == [old]
    undo()
