"""Tells everybody who follows a stream that it goes on from somewhere else: with another epoch, or after a hole."""

from backend.app.realtime.catch_up import tell_lost
from backend.app.realtime.event_log import Position
from backend.app.realtime.hub import Hub
from backend.app.realtime.resume import LostReason


def tell_followers(hub: Hub, reason: LostReason, stream: str, position: Position) -> None:
    """Have the hub's head of a stream be another one, and every follower told what it loses by that."""
    hub.settle()
    known = hub.heads.position(stream)
    before = known or Position(position.epoch, 0)
    followers = [
        (connection, connection.position(stream, before.offset)) for connection in hub if stream in connection.streams()
    ]
    hub.heads.reset(stream, position)
    for connection, offset in followers:
        connection.forget_source(stream)
        tell_lost(connection, stream, reason, Position(before.epoch, offset).wire(), hub.positions(connection))
