"""What a server's /metrics says at the moment."""

import httpx


async def metric(url: str, name: str) -> float:
    """Return the value of a metric, labels included in its name; 0 when it was never counted."""
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        text = (await client.get("/metrics")).text
    rows = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return next((float(value) for key, value in rows if key == name), 0.0)
