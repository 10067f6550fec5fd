"""Random histories of publishers, clients, slow sockets, lost hints, rights and retention: I1 to I6 hold in each.

The invariants and rules are those of the design, by number. A failure that is found stays as a plain test in
`test_catch_up.py`.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from backend.app.realtime.event_log import Position
from backend.app.realtime.marks import LOGS_UPDATE
from backend.app.realtime.topics import Topic
from backend.app.schemas.roles import Role
from tests.proving import amount
from tests.unit.realtime.log_world import BUDGET, CLOSED, OPEN, ORGANIZATION, STREAM, Client, LogWorld
from tests.unit.realtime.outlets import principal

EXAMPLES = amount(200, 2000)
STEPS = 50
MESSAGE_BYTES = 350
TOPICS = [Topic(ORGANIZATION, OPEN), Topic(ORGANIZATION, CLOSED), Topic(ORGANIZATION, OPEN, "t")]


@dataclass
class Follower:
    """One user's client over all its connections, and what the model knows of its wishes."""

    name: str
    client: Client
    role: Role = Role.OPERATOR
    had: list[list[int]] = field(default_factory=lambda: [[]])
    """Offsets that came: a new list begins with each lost position."""
    starts: list[int] = field(default_factory=list)
    seen: int = 0

    def collect(self, expected: Callable[["Follower", int], set[int]]) -> None:
        """Take what its connection wrote since the last time.

        I2, R1: a position is told only of what was written before, all of it.
        """
        messages = self.client.messages
        for message in messages[self.seen :]:
            if message["type"] == "position_lost" and message["data"]["stream"] == STREAM:
                self.had.append([])
                self.starts.append(message["data"]["positions"][STREAM]["offset"])
            elif "offset" in message:
                self.had[-1].append(message["offset"])
            elif STREAM in message["data"].get("positions", {}) and message["type"] != "welcome":
                missing = expected(self, message["data"]["positions"][STREAM]["offset"]) - set(self.had[-1])
                assert not missing, (message, missing)
        self.seen = len(messages)

    def got(self) -> list[int]:
        return [offset for part in self.had for offset in part]


class History:
    """Applies the steps, and judges."""

    def __init__(self) -> None:
        self.world = LogWorld()
        self.followers = [
            Follower(name, self.world.connect(TOPICS, user_id=name, role=Role.OPERATOR)) for name in ("ann", "ben")
        ]
        for follower in self.followers:
            follower.starts.append(0)
        self.forbidden: dict[str, set[int]] = {"ann": set(), "ben": set()}
        """Offsets that somebody had no right to while they were committed or later: they may be missing."""

    async def step(self, kind: str, who: int, number: int) -> None:
        world, follower = self.world, self.followers[who]
        client = follower.client
        match kind:
            case "publish":
                for index in range(number + 1):
                    event = world.publish((OPEN, CLOSED)[index % 2], "st"[number % 2])
                    self._note_rights(event.offset or 0, event.spec.name == CLOSED)
            case "publish to":
                event = world.publish(CLOSED, user_id=follower.name)
                self._note_rights(event.offset or 0, is_closed=True)
            case "hand on":
                world.hand_on(number)
            case "lose":
                world.lose_hints()
            case "poll":
                world.poll()
            case "stall":
                client.outlet.is_taking = False
            case "take":
                client.outlet.drain()
            case "ping":
                client.ping()
            case "reconnect":
                await world.run(2)
                follower.collect(self._expected)
                client.leave()
                topics = TOPICS
                position = client.position()
                follower.client = world.connect(topics, position, user_id=follower.name, role=follower.role)
                follower.seen = 0
            case "demote" | "promote":
                follower.role = Role.VIEWER if kind == "demote" else Role.OPERATOR
                world.hub.update_principal(
                    client.connection, principal(ORGANIZATION, follower.name, role=follower.role)
                )
                if kind == "demote":
                    await self._check_nothing_forbidden(follower)
            case "retain":
                world.retain(min(world.hub.heads.head(STREAM) or 0, world.log.floor + number))
            case "down":
                world.log.is_down = True
            case "up":
                world.log.is_down = False
            case "run":
                await world.run(number * 3)
        for each in self.followers:
            each.collect(self._expected)
            assert each.client.connection.queued_bytes <= BUDGET.max_bytes + MESSAGE_BYTES
            assert not each.client.connection.is_over

    def _note_rights(self, offset: int, is_closed: bool) -> None:
        for follower in self.followers:
            if is_closed and follower.role is Role.VIEWER:
                self.forbidden[follower.name].add(offset)

    async def _check_nothing_forbidden(self, follower: Follower) -> None:
        """I4, R6: what waits is asked about again; nothing that the present rights forbid is written any more."""
        self.forbidden[follower.name] |= {
            event.offset or 0 for event in self.world.log.events if event.spec.name == CLOSED
        }
        follower.collect(self._expected)
        before = len(follower.client.messages)
        follower.client.outlet.drain()
        await self.world.run(40)
        assert [m for m in follower.client.messages[before:] if m["type"] == CLOSED] == []

    def _expected(self, follower: Follower, up_to: int) -> set[int]:
        return {
            offset
            for event in self.world.log.events
            if follower.starts[-1] < (offset := event.offset or 0) <= up_to
            and event.user_id in (None, follower.name)
            and offset not in self.forbidden[follower.name]
        }

    async def finish(self) -> None:
        """I1: received = entitled and wanted, ascending, once, between lost positions."""
        await self.world.settle()
        for follower in self.followers:
            follower.collect(self._expected)
            connection = follower.client.connection
            assert not connection.cursors
            assert self.world.hub.heads.head(STREAM) == self.world.log.head  # I6
            for part in follower.had:
                assert part == sorted(set(part)), part
            got = follower.got()
            assert len(got) == len(set(got)), got
            missing = self._expected(follower, self.world.log.head) - set(follower.had[-1])
            assert not missing, missing
            for position in (Position("e1", offset) for offset in got):
                assert position.offset <= self.world.log.head
        await self.world.catch_up.stop()


KINDS = [
    "publish", "publish", "publish", "publish to", "hand on", "hand on", "hand on", "lose", "poll", "stall", "take",
    "ping", "reconnect", "demote", "promote", "retain", "down", "up", "run", "run", "run",
]  # fmt: skip
STEP = st.tuples(st.sampled_from(KINDS), st.integers(0, 1), st.integers(0, 6))


@settings(max_examples=EXAMPLES)
@given(st.lists(STEP, min_size=STEPS // 2, max_size=STEPS))
def test_every_client_gets_its_events_once_in_order(steps: list[tuple[str, int, int]]) -> None:
    """I1, I2, I3, I4, I5, I6."""

    async def history() -> None:
        made = History()
        for step in steps:
            await made.step(*step)
        await made.finish()

    asyncio.run(history())


LINE_KINDS = [
    "append", "append", "append", "hand on", "hand on", "lose", "poll", "stall", "take", "reconnect", "run", "run",
    "reverse", "down", "up",
]  # fmt: skip
LINE_STEP = st.tuples(st.sampled_from(LINE_KINDS), st.integers(0, 1), st.integers(1, 6))


class LogHistory:
    """Two followers of one log: one from a line on, one of all logs of the organization."""

    def __init__(self) -> None:
        self.world = LogWorld()
        self.one = self.world.connect([Topic(ORGANIZATION, LOGS_UPDATE, "d")], from_line=1, user_id="ann")
        self.all = self.world.connect([Topic(ORGANIZATION, LOGS_UPDATE)], user_id="ben")
        self.lines: list[int] = []

    async def step(self, kind: str, who: int, number: int) -> None:
        world, client = self.world, (self.one, self.all)[who]
        match kind:
            case "append":
                world.append_lines(number)
            case "hand on":
                world.hand_on(number)
            case "reverse":
                world.reverse_hints()
            case "lose":
                world.lose_hints()
            case "poll":
                world.poll()
            case "stall":
                client.outlet.is_taking = False
            case "take":
                client.outlet.drain()
            case "reconnect":
                await world.run(2)
                self.lines += self.one.lines()
                self.one.leave()
                self.one = world.connect(
                    [Topic(ORGANIZATION, LOGS_UPDATE, "d")], {}, from_line=len(self.lines) + 1, user_id="ann"
                )
            case "down":
                world.log.is_down = True
            case "up":
                world.log.is_down = False
            case "run":
                await world.run(number * 3)

    async def finish(self) -> None:
        await self.world.settle()
        every = list(range(1, self.world.log.lines + 1))
        assert self.lines + self.one.lines() == every
        assert self.all.lines() == every
        assert not self.all.told("position_lost")
        await self.world.catch_up.stop()


@settings(max_examples=EXAMPLES)
@given(st.lists(LINE_STEP, min_size=STEPS // 2, max_size=STEPS))
def test_every_follower_of_a_log_gets_its_lines_once_in_order(steps: list[tuple[str, int, int]]) -> None:
    """R14, I1 for lines: overlapping, reversed and lost hints, slow sockets and reconnects change nothing."""

    async def history() -> None:
        made = LogHistory()
        for step in steps:
            await made.step(*step)
        await made.finish()

    asyncio.run(history())
