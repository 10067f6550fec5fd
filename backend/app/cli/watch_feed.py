"""Follows deployments: what was there, then what comes, each line once and in order.

Used by `windflow watch`. Subscribes first and reads after, so that nothing falls between. The stream resumes by
itself: statuses, and the log of a deployment that was named. Lines of all deployments are pushed live only: one that
is known is dropped by its number, one that is missing is fetched.
"""

import itertools
from dataclasses import dataclass
from typing import Any

from backend.app.cli.ansi import safe_line, safe_name
from backend.app.cli.deployments import LOG_PAGE_LINES, progress_text
from backend.app.cli.failures import FAILED, INTERRUPTED
from backend.app.cli.following import ENDED, State, lost_text
from backend.app.cli.output import STATUS_STYLES, Output
from backend.app.client.api import WindFlowClient, path_segment
from backend.app.client.errors import ApiError
from backend.app.client.items import Event, PositionLost
from backend.app.client.positions import LOG_PREFIX

NAME_WIDTH = 24
_NAME_STYLES = ("cyan", "magenta", "green", "yellow", "blue", "bright_red", "bright_cyan", "bright_magenta")


@dataclass
class Watched:
    """What is known of one deployment."""

    deployment_id: str
    name: str
    style: str
    status: str | None = None
    exit_code: int | None = None
    reason: str | None = None
    next_line: int | None = None
    """The first line not yet shown; None: nothing of its log was seen, so nothing can be missing."""
    is_joined: bool = False
    """Whether it was there when it was first read, and its lines up to then were left out."""
    is_unsure: bool = False
    """Whether it may have lines that nothing has told of."""

    @property
    def has_ended(self) -> bool:
        """Whether its status is a last one."""
        return self.status in ENDED

    def exit_status(self) -> int:
        """Return what a command that waited for it exits with."""
        if self.status == "success":
            return 0
        if self.status == "cancelled":
            return INTERRUPTED
        return self.exit_code if self.exit_code is not None and 0 < self.exit_code < 256 else FAILED


class Feed:
    """Shows deployments and keeps count of their lines."""

    def __init__(self, client: WindFlowClient, output: Output, *, with_names: bool) -> None:
        self._client = client
        self._output = output
        self._with_names = with_names
        self._with_colours = output.has_colours
        self._console = output.console()
        self._errors = output.console(is_error=True)
        self._styles = itertools.cycle(_NAME_STYLES)
        self._width = 0
        self._has_read_all = False
        self.known: dict[str, Watched] = {}
        self._first_lines: dict[str, int] = {}
        """Where the logs begin that the stream follows by number."""

    async def load(self, deployment_id: str) -> Watched:
        """Show one deployment's present state and the lines that are missing, an end last. Raises ApiError.

        Of a log that nothing was seen of, no lines are shown. What fails in the middle leaves everything as it was,
        except for the lines that were shown.
        """
        item = await self._client.get(f"deployments/{path_segment(deployment_id)}")
        watched = self._get(item["id"], item.get("name"))
        if item.get("status") not in ENDED:
            self.take(item)
        await self.catch_up(watched)
        return self.take(item)

    def follow(self, deployment_id: str, line: int) -> None:
        """Show the log of a deployment from a line on: the stream follows it by number."""
        self._first_lines[deployment_id] = line

    async def state(self, state: State) -> Watched:
        """Show a state of a deployment that is followed by number, an end after the lines. Raises ApiError."""
        watched = self._get(state.item["id"], state.item.get("name"))
        if state.has_ended:
            await self.catch_up(watched, (state.item.get("lastLine") or 0) + 1)
        return self.take(state.item)

    def lost(self, item: PositionLost) -> None:
        """Say what cannot be had any more; a log goes on from the line that the server names."""
        self._output.warn(lost_text(item))
        line = (item.now or {}).get("line")
        if item.stream.startswith(LOG_PREFIX) and isinstance(line, int):
            self._get(item.stream.removeprefix(LOG_PREFIX), None).next_line = line

    async def go_on(self) -> None:
        """Read the lines that were pushed while the connection was away; what happened, the stream tells."""
        for watched in self.known.values():
            watched.is_unsure = watched.is_unsure or not watched.has_ended
        await self.read_unsure()

    async def read_unsure(self) -> None:
        """Read the lines of those that may have some nothing has told of: also of what began meanwhile."""
        for watched in [each for each in self.known.values() if each.is_unsure]:
            try:
                await self.catch_up(watched)
            except ApiError as error:
                if error.code != "not_found":
                    raise
            watched.is_unsure = False

    async def load_active(self) -> None:
        """Read all deployments that have not ended, and those known to this feed that have.

        One that is news later than the first time began while the connection was away: it is shown from its start.
        """
        for status in ("running", "pending"):
            async for item in self._client.items("deployments", {"status": status}):
                is_new = item["id"] not in self.known
                watched = self.take(item)
                if is_new:
                    watched.is_joined = not self._has_read_all
                    watched.next_line = (item.get("lastLine") or 0) + 1 if watched.is_joined else 1
                await self.catch_up(watched)
        for watched in [w for w in self.known.values() if not w.has_ended]:
            await self._refresh(watched)
        self._has_read_all = True

    def take(self, item: dict[str, Any]) -> Watched:
        """Take a deployment as the API describes it, and show it where its status is news."""
        watched = self._get(item["id"], item.get("name"))
        if watched.status != item.get("status"):
            watched.status, watched.exit_code = item.get("status"), item.get("exitCode")
            watched.reason = item.get("reason")
            self.show_status(watched, progress_text(item))
        return watched

    async def catch_up(self, watched: Watched, before_line: int | None = None) -> None:
        """Show the lines that are stored and not yet shown, up to `before_line` where given."""
        while watched.next_line is not None and (before_line is None or watched.next_line < before_line):
            start = watched.next_line
            limit = LOG_PAGE_LINES if before_line is None else min(LOG_PAGE_LINES, before_line - start)
            path = f"deployments/{path_segment(watched.deployment_id)}/logs"
            try:
                page = await self._client.get(path, {"fromLine": start, "limit": limit})
            except ApiError as error:
                first = error.detail("firstAvailable")
                if error.code != "lines_expired" or not isinstance(first, int) or first <= start:
                    raise
                self._output.warn(f"lines {start} to {first - 1} were removed by retention")
                watched.next_line = first
                continue
            for number, item in enumerate(page["items"], start):
                self._show_line(watched, item.get("line", number), item["text"], item.get("t"))
            watched.next_line = max(start, page["nextLine"])
            if watched.next_line == start:
                return

    async def event(self, event: Event) -> Watched | None:
        """Show an event; return the deployment it is about."""
        deployment_id = event.data.get("deploymentId")
        if not isinstance(deployment_id, str) or not event.type.startswith("DEPLOYMENT_"):
            if event.type == "subscription_removed":
                self._output.warn(f"the server removed a subscription: {event.data.get('reason')}")
            return None
        watched = self.known.get(deployment_id)
        if event.type == "DEPLOYMENT_CREATED":
            watched = self._get(deployment_id, event.data.get("deploymentName"))
            if watched.next_line is None or watched.is_joined:
                # Read after it was created and before this told so: every line of it is still to come.
                watched.next_line, watched.is_joined, watched.is_unsure = 1, False, True
            if watched.status is None:
                watched.status = event.data.get("status") or "pending"
                self.show_status(watched)
        elif watched is None:
            watched = await self._meet(deployment_id, event)
        if watched is not None:
            await self._apply(watched, event)
        return watched

    async def _apply(self, watched: Watched, event: Event) -> None:
        data = event.data
        if event.type == "DEPLOYMENT_LOGS_UPDATE":
            await self._lines(watched, data)
        elif event.type == "DEPLOYMENT_STATUS_CHANGED":
            await self._status(watched, data)
        elif event.type == "DEPLOYMENT_PROGRESS":
            self._show_fact(watched, progress_text(data), {"progress": data.get("progress"), "step": data.get("step")})
        elif event.type == "DEPLOYMENT_CANCEL_REQUESTED":
            reason = f": {data['reason']}" if data.get("reason") else ""
            self._show_fact(watched, f"cancel requested{reason}", {"isCancelRequested": True})
        elif event.type == "DEPLOYMENT_DELETED":
            self._show_fact(watched, "deleted", {"isDeleted": True})
            watched.status = watched.status or "deleted"

    async def _status(self, watched: Watched, data: dict[str, Any]) -> None:
        # An end that was read already is the last word; what led to it may still be on its way.
        if watched.has_ended or data.get("newStatus") == watched.status:
            return
        if data.get("newStatus") in ENDED:
            await self.catch_up(watched)
        watched.status, watched.exit_code = data.get("newStatus"), data.get("exitCode")
        watched.reason = data.get("reason")
        self.show_status(watched)

    async def _lines(self, watched: Watched, data: dict[str, Any]) -> None:
        texts, first = data.get("logs") or [], data.get("firstLine")
        times = data.get("times") or [None] * len(texts)
        if not isinstance(first, int):
            # Published by something else than a runner: it has no numbers, so it is shown as it comes.
            for text in texts:
                self._show_line(watched, None, text, None)
            return
        if watched.next_line is None:
            watched.next_line = first
        await self.catch_up(watched, before_line=first)
        for number, (text, moment) in enumerate(zip(texts, times, strict=False), first):
            if number >= watched.next_line:
                self._show_line(watched, number, text, moment)
                watched.next_line = number + 1

    async def _meet(self, deployment_id: str, event: Event) -> Watched | None:
        """Take in a deployment that began before this feed; its present state is shown, its old lines are not."""
        if event.type == "DEPLOYMENT_DELETED":
            return None
        try:
            return await self.load(deployment_id)
        except ApiError as error:
            if error.code != "not_found":
                raise
            return None

    async def _refresh(self, watched: Watched) -> None:
        try:
            await self.load(watched.deployment_id)
        except ApiError as error:
            if error.code != "not_found":
                raise
            watched.status = "deleted"
            del self.known[watched.deployment_id]

    def _get(self, deployment_id: str, name: str | None) -> Watched:
        watched = self.known.get(deployment_id)
        if watched is None:
            shown = safe_name(name or deployment_id)
            watched = self.known[deployment_id] = Watched(deployment_id, shown, next(self._styles))
            watched.next_line = self._first_lines.get(deployment_id)
            self._width = min(NAME_WIDTH, max(self._width, len(shown)))
        return watched

    def _show_line(self, watched: Watched, number: int | None, text: str, moment: str | None) -> None:
        if self._output.is_json:
            self._json(watched, {"line": number, "text": text, "time": moment})
            return
        # Written as it is: Rich would interpret and wrap what is somebody's output.
        line = safe_line(text, with_colours=self._with_colours)
        print(f"{self._prefix(watched)}{line}" if self._with_names else line, flush=True)

    def say_following(self) -> None:
        """Say on stderr that from now on everything is seen: until something happens, nothing else would show it."""
        self._output.warn("following all deployments of your organization; Ctrl-C ends it")

    def show_status(self, watched: Watched, extra: str = "") -> None:
        """Show a deployment's status, with exit status and reason where there are any."""
        reason, status = watched.reason, watched.status or "unknown"
        code = f" (exit status {watched.exit_code})" if watched.exit_code is not None else ""
        text = " ".join(part for part in (f"{status}{code}", extra) if part) + (f": {reason}" if reason else "")
        self._show_fact(
            watched,
            text,
            {"status": status, "exitCode": watched.exit_code, "reason": reason},
            style=STATUS_STYLES.get(status, ""),
        )

    def _show_fact(self, watched: Watched, text: str, record: dict[str, Any], style: str = "dim") -> None:
        """Show what is not output: beside the lines of all, or on stderr where stdout is one deployment's log."""
        from rich.text import Text

        if self._output.is_json:
            self._json(watched, record)
            return
        shown = Text(f"● {safe_name(text)}", style=style)
        if self._with_names:
            self._console.print(Text.from_ansi(self._prefix(watched)) + shown)
        else:
            self._errors.print(shown)

    def _json(self, watched: Watched, record: dict[str, Any]) -> None:
        self._output.json({"deploymentId": watched.deployment_id, "name": watched.name, **record})

    def _prefix(self, watched: Watched) -> str:
        from rich.text import Text

        name = watched.name if len(watched.name) <= NAME_WIDTH else watched.name[: NAME_WIDTH - 1] + "…"
        plain = f"{name:<{self._width}} │ "
        if not self._with_colours:
            return plain
        with self._console.capture() as capture:
            self._console.print(Text(plain, style=watched.style), end="")
        return capture.get()
