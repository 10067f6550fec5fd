"""`windflow logs --follow`: the lines of one deployment as they come, to its end."""

from contextlib import aclosing

from backend.app.cli.ansi import safe_line
from backend.app.cli.following import GIVE_UP_SECONDS, Lost, Reads, State, follow_to_end, lost_text
from backend.app.cli.output import Output
from backend.app.client.api import WindFlowClient
from backend.app.client.errors import ApiError
from backend.app.client.items import LOGS_UPDATE, Event, PositionLost, Subscription

_TYPES = (LOGS_UPDATE, "DEPLOYMENT_STATUS_CHANGED", "DEPLOYMENT_DELETED")


async def follow_log(
    client: WindFlowClient, output: Output, deployment_id: str, from_line: int, level: str | None, lost: Lost
) -> None:
    """Print the lines from one on, until the deployment has ended and all were printed.

    Raises ApiError where it does not exist, and where the server cannot follow a log from a line.
    """
    wanted = Subscription(_TYPES, deployment_id, from_line)
    async with (
        client.events(wanted, give_up_seconds=GIVE_UP_SECONDS, on_lost=lost) as events,
        aclosing(follow_to_end(client, events, Reads(events), deployment_id)) as items,
    ):
        async for item in items:
            if isinstance(item, PositionLost):
                if item.reason == "unsupported":
                    raise ApiError(item.reason, "this server cannot follow a log from a line")
                output.warn(lost_text(item))
            elif isinstance(item, Event) and item.type == LOGS_UPDATE:
                _print(output, item, level)
            elif isinstance(item, Event) and item.type == "DEPLOYMENT_DELETED":
                output.warn("the deployment was deleted")
            elif isinstance(item, State) and item.has_ended:
                output.warn(f"the deployment ended: {item.item.get('status')}")


def _print(output: Output, event: Event, level: str | None) -> None:
    data = event.data
    texts = data.get("logs") or []
    nothing = [None] * len(texts)
    details = zip(
        data.get("times") or nothing, data.get("streams") or nothing, data.get("levels") or nothing, strict=True
    )
    first = data.get("firstLine")
    for index, (text, (time, stream, each_level)) in enumerate(zip(texts, details, strict=True)):
        if level is not None and (each_level or "").lower() != level.lower():
            continue
        if output.is_json:
            line = first + index if isinstance(first, int) else None
            output.json({"line": line, "text": text, "t": time, "stream": stream, "level": each_level})
        else:
            print(safe_line(text, with_colours=output.has_colours), flush=True)
