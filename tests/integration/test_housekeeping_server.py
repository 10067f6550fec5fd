"""A running server removes by itself what is over."""

import asyncio
import re
from pathlib import Path

import httpx

from tests.integration.server_process import server_process

_REMOVED = re.compile(r'^windflow_rows_removed_total\{table="idempotency_keys"\} (\S+)$', re.MULTILINE)


async def test_a_running_server_removes_what_is_over_and_counts_it(
    own_database: dict[str, str], tmp_path: Path
) -> None:
    """One owned periodic task, started and stopped with the server; metrics for what it removed."""
    settings = {"HOUSEKEEPING_SECONDS": "0.1", "IDEMPOTENCY_SECONDS": "0.1"}
    async with server_process(tmp_path, settings | own_database) as server:
        async with server.client(await server.login()) as client:
            body = {"name": "second"}
            made = await client.post("/organizations", json=body, headers={"Idempotency-Key": "one"})
            assert made.status_code == 201, made.text
        async with httpx.AsyncClient() as client, asyncio.timeout(30):
            while True:
                found = _REMOVED.search((await client.get(f"{server.url}/metrics")).text)
                if found and float(found[1]) == 1:
                    break
                await asyncio.sleep(0.05)
        assert await server.stop() == 0
        assert not [record for record in server.logged() if record["level"] == "ERROR"]
