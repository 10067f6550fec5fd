"""The TypeScript client in a Node process of its own, compiled from its source, for tests against a real server."""

import asyncio
import functools
import json
import shutil
import subprocess
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.services import require_or_skip

FRONTEND = Path(__file__).parents[2] / "frontend"
DRIVER = Path(__file__).parent / "ts_driver.mjs"
HEARD_SECONDS = 60.0
OUTPUT_BYTES = 64 * 1024 * 1024

Said = dict[str, Any]


@functools.cache
def compiled() -> Path:
    """Compile the library once per test process; skip where Node or the compiler is missing."""
    compiler = FRONTEND / "node_modules" / ".bin" / "tsc"
    if shutil.which("node") is None or not compiler.exists() or not (FRONTEND / "node_modules" / "ws").exists():
        require_or_skip("node", "no TypeScript compiler: install Node.js and run `npm install` in frontend/")
    folder = Path(tempfile.mkdtemp(prefix="windflow-ts-"))
    (folder / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    command = [str(compiler), "-p", str(FRONTEND), "--outDir", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout
    return folder / "services" / "websocket" / "client.js"


class NodeClient:
    """What the process says, in order, and commands to it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._said: deque[Said] = deque()

    async def start(self) -> None:
        """Wait until it is connected; what is heard before that is kept."""
        heard = await self.until(lambda said: "started" in said)
        self._said.extend(heard[:-1])

    async def next(self) -> Said:
        """Return the next thing heard; fail with what the process wrote where it ended."""
        return self._said.popleft() if self._said else await self._read()

    async def until(self, condition: Callable[[Said], bool]) -> list[Said]:
        """Return everything up to the first thing that fulfils a condition, that included."""
        heard = [await self.next()]
        while not condition(heard[-1]):
            heard.append(await self.next())
        return heard

    async def notice(self, name: str) -> Said:
        """Return the value of the next notice of that name."""
        value: Said = (await self.until(lambda said: said.get("notice") == name))[-1]["value"]
        return value

    async def command(self, name: str, value: Any = None) -> Any:
        """Have a command done and return its result; what is heard meanwhile comes later. Fails on its error."""
        said = await self.attempt(name, value)
        assert "error" not in said, said
        return said["value"]

    async def attempt(self, name: str, value: Any = None) -> Said:
        """Have a command done and return its answer, an error too."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"command": name, "value": value}).encode() + b"\n")
        while (said := await self._read()).get("done") != name:
            self._said.append(said)
        return said

    async def _read(self) -> Said:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), HEARD_SECONDS)
        assert line, "the Node process ended: its errors are above"
        said: Said = json.loads(line)
        return said


@asynccontextmanager
async def node_client(url: str, **given: Any) -> AsyncIterator[NodeClient]:
    """Run a client that is started; `given` is what the driver takes."""
    config = {
        "url": url,
        "library": str(compiled()),
        "ws": str(FRONTEND / "node_modules" / "ws" / "wrapper.mjs"),
        **given,
    }
    process = await asyncio.create_subprocess_exec(
        "node", str(DRIVER), json.dumps(config),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=OUTPUT_BYTES,
    )  # fmt: skip
    try:
        client = NodeClient(process)
        await client.start()
        yield client
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        # The pipes' transport ends with the process; leaving it to the collector would warn.
        process._transport.close()  # type: ignore[attr-defined]
