"""Keeps the tasks that plugin code makes from ending the process or outliving their owner.

The supervisor names the owner of a call in a context variable; every task made under it is
driven by `contained` and stands in the owner's `TaskScope`: those of `context.create_task`
always, those of plain `asyncio.create_task` while `install` is in force on the loop.
Invariant: neither sys.exit() nor KeyboardInterrupt of a plugin's task reaches the event loop.
"""

import asyncio
import contextlib
import os
import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_ASYNCIO = str(Path(asyncio.__file__).parent)
_SERVER = str(Path(__file__).parents[1]) + os.sep
_PLUGINS = str(Path(__file__).parent / "plugins") + os.sep
AnyTask = asyncio.Task[Any]


class PluginExit(RuntimeError):
    """What a plugin sees that awaits a task of its own which tried to end the process."""


class Reporter(Protocol):
    """Takes what went wrong in a plugin's task: `supervisor.Supervisor`."""

    def report_task(self, owner: "Owner", error: BaseException) -> None:
        """Log and count a failed task."""


@dataclass(eq=False, slots=True)
class Owner:
    """Whose code is running: the plugin, the hook it was called in, and where its tasks belong."""

    plugin: str
    hook: str
    event_type: str | None
    scope: "TaskScope"
    reporter: Reporter


@dataclass(slots=True)
class Leash:
    """The hold on one driven coroutine. Once `is_abandoned`, the next cancellation ends it, willing or not."""

    coroutine: Coroutine[Any, Any, Any] | None = None
    """Set with its first step."""
    is_abandoned: bool = False
    is_reported: bool = False


current_owner: ContextVar[Owner | None] = ContextVar("windflow_plugin_owner", default=None)


def _is_servers(coroutine: object) -> bool:
    """Tell whether a coroutine is the server's own code, such as the dispatch that a plugin's broadcast starts."""
    code = getattr(coroutine, "cr_code", None)
    return code is not None and code.co_filename.startswith(_SERVER) and not code.co_filename.startswith(_PLUGINS)


@types.coroutine
def drive(coroutine: Coroutine[Any, Any, T], leash: Leash) -> Generator[Any, Any, T]:
    """Await the coroutine step by step and return its value; an abandoned one is closed by its next cancellation.

    A coroutine that swallows every cancellation would otherwise keep `asyncio.run` from ever
    returning: it cancels what is left and waits for all of it.
    """
    leash.coroutine = coroutine
    step: Callable[[Any], Any] = coroutine.send
    value: Any = None
    while True:
        try:
            waited_for = step(value)
        except StopIteration as stop:
            result: T = stop.value
            return result
        try:
            value = yield waited_for
            step = coroutine.send
        except GeneratorExit:
            _close(coroutine)
            raise
        except BaseException as error:
            if leash.is_abandoned and isinstance(error, asyncio.CancelledError):
                _close(coroutine)
                raise
            step, value = coroutine.throw, error


def _close(coroutine: Coroutine[Any, Any, Any]) -> None:
    chain: list[object] = [coroutine]
    while (awaited := getattr(chain[-1], "cr_await", None)) is not None:
        chain.append(awaited)
    try:
        coroutine.close()
    except BaseException:  # noqa: BLE001 - plugin code may raise anything when it is closed; it is over either way
        for each in chain:
            _keep_for_ever(each)


def _keep_for_ever(thing: object) -> None:
    """Take a reference that nothing gives back, for a coroutine that ignored even GeneratorExit.

    Collecting it, at the latest when the interpreter ends, would throw that into it again; and a
    `while True: try: … except BaseException: …` without an event loop never comes to rest.
    """
    with contextlib.suppress(ImportError):
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def position(coroutine: object) -> str | None:
    """Return `file:line in function` of the plugin's code that waits, None where that cannot be known."""
    found = None
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        if not frame.f_code.co_filename.startswith(_ASYNCIO):
            found = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
        coroutine = getattr(coroutine, "cr_await", None)
    return found


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What a scope still held when it was closed: names of the tasks, and how many outlived their cancellation."""

    names: tuple[str, ...] = ()
    still_running: int = 0


@dataclass(eq=False, slots=True)
class TaskScope:
    """The tasks that a plugin made for one connection, or, with `parent` None, for the whole process."""

    parent: "TaskScope | None" = None
    report_after_seconds: float = 0.1
    """How long a failed task may wait for somebody to fetch its exception before it is reported."""
    is_closed: bool = False
    _tasks: dict[AnyTask, Leash] = field(default_factory=dict)

    @property
    def tasks(self) -> tuple[AnyTask, ...]:
        """The tasks that have not ended."""
        return tuple(self._tasks)

    def add(self, task: AnyTask, leash: Leash) -> None:
        """Take charge of a task; a closed scope passes it on to its parent."""
        if self.is_closed and self.parent is not None:
            self.parent.add(task, leash)
            return
        self._tasks[task] = leash
        task.add_done_callback(self._forget)

    def _forget(self, task: AnyTask) -> None:
        self._tasks.pop(task, None)

    def cancel(self) -> None:
        """Cancel the tasks without waiting for them, those of other event loops excepted."""
        for task in self._own_loops_tasks():
            task.cancel()

    async def close(self, grace_seconds: float) -> Leftovers:
        """Cancel what is left and wait for it at most `grace_seconds`; who ignores that is passed to the parent.

        A cancelled close has cancelled the tasks as well, and does not wait for them.
        """
        self.is_closed = True
        tasks = self._own_loops_tasks()
        if not tasks:
            return Leftovers()
        names = tuple(task.get_name() for task in tasks if not task.cancelling())
        self.cancel()
        _, stubborn = await asyncio.wait(tasks, timeout=grace_seconds)
        for task in stubborn:
            leash = self._tasks[task]
            leash.is_abandoned = True
            if self.parent is not None:
                self._forget(task)
                self.parent.add(task, leash)
        return Leftovers(names, len(stubborn))

    def reopen(self) -> None:
        """Use the scope again, for a plugin that is started again."""
        self.is_closed = False

    def _own_loops_tasks(self) -> list[AnyTask]:
        """Return the tasks of the running loop: a global manager may have been used on others, now closed."""
        loop = asyncio.get_running_loop()
        current = asyncio.current_task()
        return [task for task in self._tasks if task.get_loop() is loop and task is not current]


async def contained(coroutine: Coroutine[Any, Any, T], owner: Owner, leash: Leash) -> T:
    """Run a plugin's task: what would end the process is reported and becomes `PluginExit`.

    A CancelledError that nobody asked this task for is reported as well: asyncio would let it end in silence.
    """
    try:
        return await drive(coroutine, leash)
    except (SystemExit, KeyboardInterrupt) as error:
        leash.is_reported = True
        owner.reporter.report_task(owner, error)
        raise PluginExit(f"a task of plugin {owner.plugin} raised {error!r}") from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and not task.cancelling():
            owner.reporter.report_task(owner, error)
        raise


_NAMING_AN_OWNER = {contained.__code__}
"""Code whose frames hold the owner of what runs inside them in the local variable `owner`."""


def names_owner(function: F) -> F:
    """Mark a function whose local variable `owner` says whose code runs inside it."""
    _NAMING_AN_OWNER.add(function.__code__)
    return function


def owner_of(frame: types.FrameType) -> Owner | None:
    """Return whose code runs inside a frame, None if the frame itself does not say. For any thread's frames."""
    if frame.f_code not in _NAMING_AN_OWNER:
        return None
    owner = frame.f_locals.get("owner")
    return owner if isinstance(owner, Owner) else None


def _adopt(task: AnyTask, coroutine: Coroutine[Any, Any, Any], owner: Owner, leash: Leash) -> None:
    """Put a new task into its owner's scope and see to its end."""
    scope = owner.scope
    scope.add(task, leash)

    def report_unless_fetched() -> None:
        if _is_unfetched(task) and (error := task.exception()) is not None:
            owner.reporter.report_task(owner, error)

    def ended(_: AnyTask) -> None:
        if leash.coroutine is None:
            coroutine.close()  # Cancelled before its first step: else it is warned about as never awaited.
        if not _is_unfetched(task):
            return
        if leash.is_reported:
            task.exception()  # Tells asyncio that it was seen.
            return
        task.get_loop().call_later(scope.report_after_seconds, report_unless_fetched)

    task.add_done_callback(ended)


def _is_unfetched(task: AnyTask) -> bool:
    """Tell whether the task failed and nobody has asked for its exception yet."""
    return bool(getattr(task, "_log_traceback", False))


def _wrap(coroutine: Coroutine[Any, Any, Any], owner: Owner, leash: Leash) -> Coroutine[Any, Any, Any]:
    wrapped: Any = contained(coroutine, owner, leash)
    wrapped.__name__ = getattr(coroutine, "__name__", "task")
    wrapped.__qualname__ = getattr(coroutine, "__qualname__", "task")
    return wrapped  # type: ignore[no-any-return]


def create_task(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start a task for the plugin that is running; outside a plugin's hook it is a plain task.

    Its failure is logged and counted for the plugin. It is cancelled when the connection of the
    hook that made it has been cleaned up, or, made for the whole process, when the plugin stops.
    """
    loop = asyncio.get_running_loop()
    owner = current_owner.get()
    if owner is None:
        return loop.create_task(coroutine)
    leash = Leash()
    task = loop.create_task(_wrap(coroutine, owner, leash))
    _adopt(task, coroutine, owner, leash)
    return task


def install(loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
    """Contain the tasks that plugins make with plain `asyncio.create_task` on this loop; return the undo.

    Tasks of the server's own coroutines are left alone, whoever makes them. A task factory that
    the loop has already keeps making the tasks. Installing twice changes nothing.
    """
    previous = loop.get_task_factory()
    if getattr(previous, "contains_plugins", False):
        return lambda: None

    def make(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        if previous is not None:
            return previous(loop, coroutine, **options)
        return asyncio.Task(coroutine, loop=loop, **options)

    def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        owner = current_owner.get()
        is_wrapped = getattr(coroutine, "cr_code", None) is contained.__code__
        if owner is None or is_wrapped or not isinstance(coroutine, Coroutine):
            return make(loop, coroutine, **options)
        if _is_servers(coroutine):
            # It works for everybody: it must neither end with this plugin nor count as its work.
            if options.get("context") is None:
                options["context"] = copy_context()
                options["context"].run(current_owner.set, None)
            return make(loop, coroutine, **options)
        leash = Leash()
        task = make(loop, _wrap(coroutine, owner, leash), **options)
        _adopt(task, coroutine, owner, leash)
        return task

    factory.contains_plugins = True  # type: ignore[attr-defined]
    loop.set_task_factory(factory)

    def undo() -> None:
        if loop.get_task_factory() is factory:
            loop.set_task_factory(previous)

    return undo
