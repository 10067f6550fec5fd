"""The two ways of `windflow watch`: one deployment to its end, or all until Ctrl-C."""

from contextlib import aclosing

from backend.app.cli.failures import FAILED
from backend.app.cli.following import GIVE_UP_SECONDS, Lost, Reads, State, follow_to_end
from backend.app.cli.watch_feed import Feed
from backend.app.client.api import WindFlowClient
from backend.app.client.items import CaughtUp, Event, PositionLost, Reconnected, Subscription


async def follow_one(client: WindFlowClient, feed: Feed, deployment_id: str, from_line: int | None, lost: Lost) -> int:
    """Show one deployment, its log from a line on, to its end, and return its exit status."""
    wanted = Subscription(("DEPLOYMENT_*",), deployment_id, 1 if from_line is None else from_line)
    async with client.events(wanted, give_up_seconds=GIVE_UP_SECONDS, on_lost=lost) as events:
        reads = Reads(events)
        feed.follow(deployment_id, events.next_line(deployment_id) or max(1, from_line or 1))
        async with aclosing(follow_to_end(client, events, reads, deployment_id)) as items:
            async for item in items:
                if isinstance(item, State):
                    watched = await feed.state(item)
                    if item.has_ended:
                        return watched.exit_status()
                elif isinstance(item, PositionLost):
                    feed.lost(item)
                else:
                    await reads.answered(feed.event(item))
    return FAILED


async def follow_all(client: WindFlowClient, feed: Feed, lost: Lost) -> int:
    """Show all deployments of the organization until interrupted."""
    wanted = Subscription(("DEPLOYMENT_*",))
    async with client.events(wanted, give_up_seconds=GIVE_UP_SECONDS, on_lost=lost) as events:
        reads = Reads(events)
        is_whole = await reads.answered(feed.load_active())
        if is_whole:
            feed.say_following()
        async for item in events:
            if isinstance(item, Event):
                is_whole &= await reads.answered(feed.event(item))
            elif isinstance(item, PositionLost):
                feed.lost(item)
                is_whole = await reads.answered(feed.load_active())
            elif isinstance(item, Reconnected):
                # What no read showed before the connection was lost, the stream does not show again.
                is_known = is_whole and item.is_resumed
                is_whole = await reads.answered(feed.go_on() if is_known else feed.load_active())
            elif isinstance(item, CaughtUp):
                is_whole &= await reads.answered(feed.read_unsure())
    return 0
