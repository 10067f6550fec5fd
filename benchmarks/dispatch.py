"""What supervision costs: a dispatch to ten plugins beside a bare `asyncio.gather` of the same ten handlers.

`make bench` runs it in a process of its own, on uvloop as the server does; `python -m benchmarks.dispatch` writes its
section alone. The two take turns within each round, and the ratio is the median of the rounds' ratios.
"""

import argparse
import asyncio
import gc
import logging
import os
import statistics
import time
from pathlib import Path
from typing import Any

import uvloop

from backend.app.websocket.plugin import PluginContext, WebSocketPlugin, WebSocketPluginManager
from scripts.figures import PAGE, machine, write_section

HANDLERS = 10
ROUNDS = 9
DISPATCHES = 1000
"""In each turn."""
AIM = 1.5
EVENT = {"deploymentId": "d1", "progress": 40, "stage": "build"}


def _plugin(number: int) -> WebSocketPlugin:
    async def handle_event(self: WebSocketPlugin, event_type: str, event_data: Any, context: PluginContext) -> None:
        await asyncio.sleep(0)

    kind: Any = type(f"Number{number}Plugin", (WebSocketPlugin,), {"handle_event": handle_event})
    plugin: WebSocketPlugin = kind()
    return plugin


async def _microseconds(rounds: int, dispatches: int) -> dict[str, list[float]]:
    """Return the CPU time of one dispatch, per round, of both ways."""
    manager = WebSocketPluginManager()
    plugins = [_plugin(number) for number in range(HANDLERS)]
    for plugin in plugins:
        manager.register(plugin)
    context = PluginContext(None, None, None, logging.getLogger("windflow.plugins"), None, None)
    await manager.startup_all(context)

    async def bare() -> None:
        await asyncio.gather(*(plugin.handle_event("DEPLOYMENT_PROGRESS", EVENT, context) for plugin in plugins))

    async def supervised() -> None:
        await manager.dispatch("DEPLOYMENT_PROGRESS", EVENT, context)

    loop = asyncio.get_running_loop()
    factories = {"bare": None, "supervised": loop.get_task_factory()}
    found: dict[str, list[float]] = {"bare": [], "supervised": []}
    for number in range(rounds + 1):
        for name, act in (("bare", bare), ("supervised", supervised)):
            loop.set_task_factory(factories[name])
            gc.collect()
            before = time.process_time()
            for _ in range(dispatches):
                await act()
            if number:  # The first round warms up.
                found[name].append((time.process_time() - before) / dispatches * 1e6)
    failures = sum(stats.failures for stats in manager.supervisor.stats.values())
    assert failures == 0, f"{failures} calls failed"
    await manager.shutdown_all()
    return found


def measured(rounds: int = ROUNDS, dispatches: int = DISPATCHES) -> dict[str, list[float]]:
    """Return the CPU time (µs) of one dispatch in each round, `bare` and `supervised`."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_microseconds(rounds, dispatches))


def report(found: dict[str, list[float]], heading: str) -> str:
    """Return the section as Markdown."""
    ratios = [ours / bare for bare, ours in zip(found["bare"], found["supervised"], strict=True)]
    ratio, bare, ours = statistics.median(ratios), *(statistics.median(found[key]) for key in ("bare", "supervised"))
    mark = "✓" if ratio <= AIM else "✗"
    return f"""\
{heading}

Ten handlers that each await `sleep(0)`, on uvloop; CPU time of one dispatch, median of {len(ratios)} rounds.
Supervised is `plugin_manager.dispatch`: time-out, breaker, owner of tasks, counters and a copy of the data for each.

| Figure | Beside | Measured | Range | Aim |
| --- | --- | --- | --- | --- |
| supervised dispatch, {ours:.0f} µs | bare `asyncio.gather`, {bare:.0f} µs | {ratio:.2f} × | \
{min(ratios):.2f}–{max(ratios):.2f} × | ≤ {AIM:g} × {mark} |
"""


def main() -> None:
    """Measure, and write the section `dispatch` of the page of figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dispatch", description="Measures supervised dispatch.")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page whose section is written")
    parser.add_argument("--dispatches", type=int, default=DISPATCHES, help="how many in each turn")
    options = parser.parse_args()
    heading = f"{machine()}; load before {os.getloadavg()[0]:.1f}. `make bench`, or `python -m benchmarks.dispatch`."
    write_section("dispatch", report(measured(dispatches=options.dispatches), heading), options.page)


if __name__ == "__main__":
    main()
