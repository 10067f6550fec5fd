"""A thread that says what blocks the event loop, while it still does.

The thread asks the loop for a sign of life a few times per `block_seconds` and looks at the stack of the loop's thread
when none comes. Invariants: each block is told once; the loop's share is one callback per question, and nothing per
event or call. What holds the interpreter's lock for the whole time (some C code) is told when it lets go.
"""

import asyncio
import logging
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import FrameType
from typing import Protocol

from backend.app.websocket.containment import Owner, owner_of
from backend.app.websocket.thread_share import ThreadShare

logger = logging.getLogger("windflow.plugins")

_LIBRARIES = tuple(sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib"))
_CALLBACK = "callback"
"""The hook that is named for what the loop called by itself, such as `loop.call_later` of a plugin."""


class Named(Protocol):
    """A plugin, as far as it is needed here."""

    @property
    def name(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Block:
    """One block of the loop; without a `plugin` it is the server's own."""

    position: str
    """`file:line in function` of what ran when it was noticed, in the plugin's own code where there is any."""
    began: float
    """When the loop was asked and did not answer (`time.monotonic`); it was blocked by then."""
    plugin: str | None = None
    hook: str | None = None
    event_type: str | None = None


@dataclass(frozen=True, slots=True)
class _Sight:
    """What the loop's thread did at one moment. `within` is the frame that it has to leave for anybody else's turn."""

    within: FrameType
    plugin: str | None
    hook: str | None
    event_type: str | None
    position: str


class Watchdog:
    """Watches the loop that runs in the thread which starts it."""

    def __init__(
        self, block_seconds: float, report: Callable[[Block], None], plugins: Callable[[], Iterable[Named]]
    ) -> None:
        self._block_seconds = block_seconds
        self._report = report
        self._plugins = plugins
        self._answered = threading.Event()
        self._is_stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; `report` is called on the loop with each block, once the loop runs again."""
        arguments = asyncio.get_running_loop(), threading.get_ident(), ThreadShare(threading.get_native_id())
        self._thread = threading.Thread(target=self._run, args=arguments, name="watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it, which is a matter of one question."""
        self._is_stopping.set()
        self._answered.set()
        if self._thread is not None:
            self._thread.join(self._block_seconds)

    def _run(self, loop: asyncio.AbstractEventLoop, thread: int, share: ThreadShare) -> None:
        half = self._block_seconds / 2
        while not self._is_stopping.wait(half):
            self._answered.clear()
            began, ran_before = time.monotonic(), share.ran_seconds()
            try:
                loop.call_soon_threadsafe(self._answered.set)
                if self._answered.wait(half):
                    continue
                before = self._look(thread)
                if self._answered.wait(half):
                    continue
                now = self._look(thread)
                if self._is_stopping.is_set():
                    return
                if share.was_kept_waiting(ran_before, time.monotonic() - began):
                    continue  # It wanted to run and the machine did not let it: nobody's code is to blame.
                block = self._tell(began, before, now)
                loop.call_soon_threadsafe(self._report, block)
            except RuntimeError:
                return  # The loop was closed: nothing is left to watch.
            while not self._answered.wait(1) and not self._is_stopping.is_set():
                pass

    def _tell(self, began: float, before: _Sight | None, now: _Sight | None) -> Block:
        if now is None:
            block = Block("a place that is not known", began)
        elif now.plugin is not None and before is not None and before.within is now.within:
            block = Block(now.position, began, now.plugin, now.hook, now.event_type)
        else:
            # Seen in two places it is many short turns that add up: none of them is to blame.
            block = Block(now.position, began)
        extra = {"plugin": block.plugin, "hook": block.hook, "event_type": block.event_type}
        seconds = self._block_seconds
        if block.plugin is None:
            logger.warning("the server's own work blocks the event loop for over %g s: %s", seconds, block.position)
        else:
            logger.error(
                "plugin %s: %s blocks the event loop for over %g s: %s",
                block.plugin, block.hook, seconds, block.position, extra=extra,
            )  # fmt: skip
        return block

    def _look(self, thread: int) -> _Sight | None:
        """Look at the stack of the loop's thread, from the innermost frame outwards."""
        frame = sys._current_frames().get(thread)
        if frame is None:
            return None
        inner: list[FrameType] = []
        each: FrameType | None = frame
        while each is not None:
            owner = owner_of(each)
            if owner is not None:
                return _of_owner(each, owner, inner or [each])
            inner.append(each)
            each = each.f_back
        files = {_file_of(plugin): plugin.name for plugin in self._plugins()}
        for each in inner:
            name = files.get(each.f_code.co_filename)
            if name is not None:
                return _Sight(each, name, _CALLBACK, None, _position(each))
        return _Sight(frame, None, None, None, _position(_own_code(inner, frame)))


def _of_owner(frame: FrameType, owner: Owner, inner: list[FrameType]) -> _Sight:
    # The outermost frames below the owner's are those that drive the plugin's code.
    theirs = [each for each in inner if not each.f_code.co_filename.startswith(_MACHINERY)] or inner
    return _Sight(frame, owner.plugin, owner.hook, owner.event_type, _position(_own_code(theirs, theirs[-1])))


def _own_code(frames: list[FrameType], otherwise: FrameType) -> FrameType:
    """Return the innermost frame outside libraries, if there is one: a plugin may be installed as a library."""
    return next((each for each in frames if not each.f_code.co_filename.startswith(_LIBRARIES)), otherwise)


def _file_of(plugin: Named) -> str | None:
    module = sys.modules.get(type(plugin).__module__)
    return getattr(module, "__file__", None)


def _position(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


_MACHINERY = tuple(
    __file__.removesuffix("watchdog.py") + name
    for name in ("containment.py", "running_call.py", "supervisor.py", "plugin_lifecycle.py")
)
"""Frames of the server that stand between a call and the plugin's code."""
