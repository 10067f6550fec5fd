"""Finds by name what the API knows by id: people type names."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backend.app.client import WindFlowClient


async def find_by_name(client: "WindFlowClient", path: str, name: str, *, field: str, what: str) -> dict[str, Any]:
    """Return the item of a list with that name or id; raise ClientError when there is none, or more than one."""
    from backend.app.client.errors import ClientError

    found = [item async for item in client.items(path) if name in (item.get(field), item.get("id"))]
    exact = [item for item in found if item.get("id") == name] or found
    if not exact:
        raise ClientError(f"there is no {what} {name!r}")
    if len(exact) > 1:
        ids = ", ".join(str(item.get("id")) for item in exact)
        raise ClientError(f"there are several {what}s {name!r}: name one by its id ({ids})")
    return exact[0]
