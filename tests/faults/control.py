"""What holds around every row: a control connection that suffers nothing, and a server that forgets nothing.

`async with control(server, token) as running:` takes the server's baseline, runs the control
connection (a process of its own) through a quiet phase and then through the block, and
afterwards asserts: no drop, no gap, order, no slow message, everything back at the baseline,
no ERROR in the log.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.faults.baseline import assert_back_at, settled
from tests.integration.server_process import ServerProcess
from tests.proving import amount

PACE_SECONDS = 0.1
QUIET_SECONDS = amount(1.0, 5.0)
ANSWER_SECONDS = 90.0
LEAST_ALLOWED_SECONDS = amount(3.0, 1.0)
"""A message that takes no longer than this is never too slow; more in the tier that runs beside other tests."""


class Control:
    """The running control connection."""

    def __init__(
        self, process: asyncio.subprocess.Process, *, may_be_refused: bool, may_be_reset: bool, may_take_seconds: float
    ) -> None:
        self._process = process
        self._may_be_reset = may_be_reset
        self._may_be_refused = may_be_refused
        self._may_take_seconds = may_take_seconds
        self._quiet: dict[str, Any] = {}
        self.report: dict[str, Any] = {}
        """What it saw from the quiet phase to the end; empty until `stop`."""

    async def begin(self, order: dict[str, Any]) -> None:
        """Connect, and go through the quiet phase."""
        await self._say(json.dumps(order))
        await self._hear()
        await asyncio.sleep(QUIET_SECONDS)  # a measured phase: time itself is what is waited for
        await self._say("quiet")
        self._quiet = await self._hear()
        assert self._quiet["received"] > 0, self._quiet

    async def stop(self) -> None:
        """End it and assert that it suffered nothing; rows that stop the server do so first."""
        if self.report:
            return
        await self._say("stop")
        self.report = await self._hear()
        await self._process.wait()
        assert self.report["faults"] == [], self.report
        assert self.report["received"] == self.report["published"], self.report
        assert self._may_be_refused or self.report["refused"] == 0, self.report
        assert self._may_be_reset or self.report["resets"] == 0, self.report
        # What the machine held this process up for is not the server's doing.
        allowed = max(self._may_take_seconds, 3 * self._quiet["slowest"]) + self.report["heldUp"]
        assert self.report["slowest"] <= allowed, (self.report, self._quiet)

    @property
    def slowest_health_seconds(self) -> float:
        """How long the slowest answer of /livez took since the quiet phase, without what its own process lost."""
        assert self.report, "the control connection runs"
        slowest: float = self.report["slowestHealth"] - self.report["heldUp"]
        return slowest

    async def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word.encode() + b"\n")
        await self._process.stdin.drain()

    async def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), ANSWER_SECONDS)
        assert line, "the control connection ended; see its error above"
        report: dict[str, Any] = json.loads(line)
        return report


@asynccontextmanager
async def control(
    server: ServerProcess,
    token: str,
    *,
    may_be_refused: bool = False,
    may_be_reset: bool = False,
    may_take_seconds: float = LEAST_ALLOWED_SECONDS,
    errors: tuple[str, ...] = (),
) -> AsyncIterator[Control]:
    """Run one row between its baseline and the assertion that all is as before.

    `may_be_refused`: the row makes the server answer 503; `may_be_reset`: it leaves no room for who asks for health,
    who has to ask again; `may_take_seconds`: it holds up every write for so long;
    `errors`: beginnings of ERROR records that the row may cause.
    """
    before = await settled(server, token)
    logged = len(server.logged())
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.faults.control_process", cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    running = Control(
        process, may_be_refused=may_be_refused, may_be_reset=may_be_reset, may_take_seconds=may_take_seconds
    )
    try:
        await running.begin({"url": server.url, "token": token, "pace": PACE_SECONDS})
        yield running
        await running.stop()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        process._transport.close()  # type: ignore[attr-defined]
    if server.process.returncode is None:
        await assert_back_at(server, before)
    assert_quiet_log(server, logged, errors)


def assert_quiet_log(server: ServerProcess, since: int = 0, allowed: tuple[str, ...] = ()) -> None:
    """Assert that the log has no ERROR from record `since` on, and nothing that is not a record, as a traceback."""
    loud = [
        record
        for record in server.logged()[since:]
        if record["level"] in ("ERROR", "CRITICAL") and not record["message"].startswith(allowed or ("\0",))
    ]
    assert loud == [], loud
    lines = server.log.read_text(encoding="utf-8").splitlines()
    strange = [line for line in lines if line and not line.startswith("{")]
    assert strange == [], strange
