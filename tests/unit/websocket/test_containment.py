"""The task factory and the driving of coroutines: what plugin tasks may and may not do."""

import asyncio
import logging
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from backend.app.websocket import containment
from backend.app.websocket.containment import Leash, Owner, PluginExit, TaskScope, current_owner, drive
from backend.app.websocket.plugins.audit_logger import AuditLoggerPlugin
from tests.plugin_world import make_context, make_manager, make_plugin, other_tasks, until, within


class Reports:
    """Stands where the supervisor stands."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []

    def report_task(self, owner: Owner, error: BaseException) -> None:
        self.errors.append(error)


def _as_plugin(reports: Reports) -> Owner:
    owner = Owner("probe", "initialize", None, TaskScope(report_after_seconds=0.01), reports)
    current_owner.set(owner)
    containment.install(asyncio.get_running_loop())
    return owner


async def _value() -> int:
    await asyncio.sleep(0)
    return 7


async def _fail() -> None:
    await asyncio.sleep(0)
    raise ValueError("mine")


async def test_a_contained_task_gives_its_value_and_its_exception_to_who_awaits_it() -> None:
    """Containment is not seen by a plugin that handles its own tasks."""
    reports = Reports()
    _as_plugin(reports)
    assert await asyncio.create_task(_value(), name="mine") == 7
    assert await containment.create_task(_value()) == 7
    with pytest.raises(ValueError, match="mine"):
        await asyncio.create_task(_fail())
    assert list(await asyncio.gather(_value(), _value())) == [7, 7]
    assert await asyncio.wait_for(_value(), 1) == 7
    with pytest.raises(ValueError, match="mine"):
        await asyncio.wait_for(_fail(), 1)
    async with asyncio.TaskGroup() as group:
        group.create_task(_value())
    results = await asyncio.gather(_fail(), _value(), return_exceptions=True)
    assert isinstance(results[0], ValueError)
    await asyncio.sleep(0.05)  # Longer than a failure that nobody fetched would wait to be reported.
    assert reports.errors == []


async def test_names_contexts_and_coroutine_names_are_kept() -> None:
    """A contained task looks like the plugin's own in a debugger."""
    _as_plugin(Reports())
    task = asyncio.create_task(_value(), name="mine")
    coroutine: Any = task.get_coro()
    assert (task.get_name(), coroutine.__name__, coroutine.__qualname__) == ("mine", "_value", "_value")
    await task


async def test_a_failure_that_nobody_fetches_is_reported_once() -> None:
    """Raises in a task it created: logged and counted, once."""
    reports = Reports()
    _as_plugin(reports)
    task = asyncio.create_task(_fail())
    await until(lambda: bool(reports.errors))
    del task
    await asyncio.sleep(0.03)  # A second report would come now.
    assert [type(error) for error in reports.errors] == [ValueError]


async def test_who_awaits_a_task_that_exits_gets_an_exception_and_not_the_exit() -> None:
    """sys.exit() in a task that a plugin awaits becomes PluginExit for it."""

    async def leave() -> None:
        sys.exit(3)

    reports = Reports()
    _as_plugin(reports)
    with pytest.raises(PluginExit, match=r"probe raised SystemExit\(3\)"):
        await asyncio.create_task(leave())
    assert [type(error) for error in reports.errors] == [SystemExit]


async def test_a_task_that_is_cancelled_before_it_began_leaves_no_warning() -> None:
    """A plugin may cancel a task at once; `filterwarnings = error` would show a coroutine never awaited."""
    owner = _as_plugin(Reports())
    for create in (asyncio.create_task, containment.create_task):
        task = create(_value())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert owner.scope.tasks == ()


async def test_a_cancelled_task_ends_in_silence_and_one_that_was_not_is_reported() -> None:
    """A CancelledError that nobody asked for would let a periodic task die unseen."""
    reports = Reports()
    _as_plugin(reports)
    asked = asyncio.create_task(asyncio.Event().wait())
    await asyncio.sleep(0)
    asked.cancel()
    await asyncio.wait([asked])
    assert reports.errors == []

    async def await_a_cancelled_future() -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    await asyncio.wait([asyncio.create_task(await_a_cancelled_future())])
    assert [type(error) for error in reports.errors] == [asyncio.CancelledError]


async def test_a_task_of_a_task_belongs_to_the_same_scope() -> None:
    """Tasks created during that connection's hooks: also by the tasks themselves."""
    owner = _as_plugin(Reports())
    inner: list[asyncio.Task[Any]] = []

    async def outer() -> None:
        inner.append(asyncio.create_task(asyncio.Event().wait()))

    await asyncio.create_task(outer())
    assert owner.scope.tasks == (inner[0],)
    left = await owner.scope.close(1)
    assert left.names == (inner[0].get_name(),)
    assert inner[0].cancelled()


async def test_tasks_of_the_servers_own_code_are_not_the_plugins() -> None:
    """The dispatch that a plugin's broadcast starts goes on when the plugin's connection ends."""
    owner = _as_plugin(Reports())
    manager = make_manager(timeout_seconds=5)
    entered, release = asyncio.Event(), asyncio.Event()
    owners: list[Owner | None] = []

    async def handle_event(self: Any, event_type: str, event_data: Any, context: Any) -> None:
        owners.append(current_owner.get())
        entered.set()
        await release.wait()

    manager.register(make_plugin("OtherPlugin", handle_event=handle_event))
    dispatching = asyncio.create_task(manager.dispatch("AUTH_LOGOUT", {}, make_context()))
    await within(entered.wait())
    assert owner.scope.tasks == ()
    await owner.scope.close(1)
    release.set()
    await within(_join(dispatching))
    assert [each.plugin for each in owners if each is not None] == ["other"]


async def _join(task: asyncio.Task[None]) -> None:
    await task


async def test_a_default_plugins_task_is_a_plugins() -> None:
    """The folder `plugins/` holds plugin code, the rest of the package is the server's."""
    _as_plugin(Reports())
    owner = current_owner.get()
    assert owner is not None
    task = asyncio.create_task(AuditLoggerPlugin().handle_event("AUTH_LOGOUT", {}, make_context()))
    assert owner.scope.tasks == (task,)
    await task


async def test_a_closed_scope_passes_new_tasks_on_to_its_parent() -> None:
    """A timer of a plugin may make a task after its connection was cleaned up: the plugin's end ends it."""
    parent = TaskScope()
    scope = TaskScope(parent=parent)
    await scope.close(0)
    task = asyncio.create_task(asyncio.sleep(60))
    scope.add(task, Leash())
    assert (scope.tasks, parent.tasks) == ((), (task,))
    await parent.close(1)
    assert task.cancelled()


async def test_a_scope_leaves_the_tasks_of_other_loops_alone() -> None:
    """The manager is global: it may hold a task of a loop that is closed."""
    scope = TaskScope()
    done: list[asyncio.Task[None]] = []

    def elsewhere() -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(asyncio.sleep(60))
        scope.add(task, Leash())
        done.append(task)
        loop.run_until_complete(asyncio.sleep(0))
        task.get_loop().call_soon(task.cancel)
        loop.run_until_complete(asyncio.sleep(0))

    await asyncio.to_thread(elsewhere)
    scope.add(done[0], Leash())
    assert (await scope.close(0)).names == ()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.to_thread(done[0].get_loop().run_until_complete, done[0])
    await asyncio.to_thread(done[0].get_loop().close)


async def test_installing_twice_and_undoing_leaves_the_loop_as_it_was() -> None:
    """An application's own task factory keeps making the tasks, and is there again afterwards."""
    loop = asyncio.get_running_loop()
    made: list[str] = []

    def own(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(coroutine.__name__)
        return asyncio.Task(coroutine, loop=loop, **options)

    loop.set_task_factory(own)
    try:
        undo = containment.install(loop)
        second = containment.install(loop)
        assert await asyncio.create_task(_value()) == 7
        second()
        assert loop.get_task_factory() is not own
        undo()
        assert loop.get_task_factory() is own
        assert made == ["_value"]
    finally:
        loop.set_task_factory(None)


async def test_create_task_outside_of_a_hook_is_a_plain_task() -> None:
    """A plugin's test may call the plugin directly, with a context and nothing else."""
    assert await make_context().create_task(_value()) == 7


async def test_driving_is_like_awaiting() -> None:
    """Values, exceptions, cancellation and closing reach the coroutine as `await` would bring them."""
    seen: list[str] = []

    async def stages() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
        try:
            await asyncio.sleep(0)
        finally:
            seen.append("finally")
        return "value"

    async def driver() -> str:
        return await drive(stages(), Leash())

    task = asyncio.create_task(driver())
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "value"
    assert seen == ["cancelled", "finally"]

    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        except GeneratorExit:
            seen.append("closed")
            raise

    async def drives() -> None:
        await drive(waits(), Leash())

    closed = drives()
    closed.send(None)
    closed.close()
    assert seen == ["cancelled", "finally", "closed"]


async def test_an_abandoned_coroutine_is_ended_by_its_next_cancellation() -> None:
    """asyncio.run cancels what is left and waits for all of it: it must be able to return."""
    leash = Leash()
    ended: list[str] = []

    async def swallow() -> None:
        try:
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    continue
        finally:
            ended.append("finally")

    async def driver() -> None:
        await drive(swallow(), leash)

    task = asyncio.create_task(driver())
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    assert not task.done()
    leash.is_abandoned = True
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert ended == ["finally"]


def test_a_process_ends_although_a_plugin_ignores_everything() -> None:
    """Neither the loop's end nor the interpreter's waits for code that catches BaseException in a loop."""
    script = """
        import asyncio
        from tests.plugin_world import make_context, make_manager, make_plugin

        async def handle_event(self, event_type, event_data, context):
            while True:
                try:
                    await asyncio.Event().wait()
                except BaseException:
                    continue

        plugin = make_plugin("BadPlugin", handle_event=handle_event)
        asyncio.run(make_manager(plugin).dispatch("AUTH_LOGOUT", {}, make_context()))
        print("ended")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr


async def test_position_names_the_plugins_own_line() -> None:
    """Named: plugin, file, line."""

    async def inner() -> None:
        await asyncio.sleep(60)

    async def outer() -> None:
        await inner()

    coroutine = outer()
    task = asyncio.create_task(coroutine)
    await asyncio.sleep(0)
    where = containment.position(coroutine)
    assert where is not None
    assert where.startswith(f"{__file__}:")
    assert where.endswith(" in inner")
    task.cancel()
    await asyncio.wait([task])
    assert containment.position(None) is None


async def test_tasks_of_the_whole_process_end_with_the_plugin(caplog: pytest.LogCaptureFixture) -> None:
    """A task that handle_event made on the registered instance is not tied to a connection."""

    async def handle_event(self: Any, event_type: str, event_data: Any, context: Any) -> None:
        context.create_task(asyncio.Event().wait())

    manager = make_manager(make_plugin("BadPlugin", handle_event=handle_event))
    before = other_tasks()
    context = make_context()
    await manager.startup_all(context)
    await manager.initialize_all(context)
    await manager.dispatch("AUTH_LOGOUT", {}, context)
    await manager.cleanup_all(context)
    assert len(other_tasks() - before) == 1
    with caplog.at_level(logging.WARNING):
        await manager.shutdown_all()
    assert other_tasks() - before == set()
    assert manager.supervisor.stats["bad"].tasks_left_behind == 1
