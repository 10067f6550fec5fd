"""One `windflow spool flush`: each spool taken, delivered with the login for its server, and told about.

Invariant: what is not delivered stays as it is, and the exit status says so.
"""

from contextlib import suppress
from typing import Any

from backend.app.cli.context import Cli
from backend.app.cli.failures import FAILED, OK, describe, exit_status
from backend.app.client.api import WindFlowClient
from backend.app.client.delivery import Delivery
from backend.app.client.errors import ClientError, NotLoggedIn, ServerUnreachable
from backend.app.client.rest import Timeouts
from backend.app.runner.spool import End, Head
from backend.app.runner.spool_delivery import deliver
from backend.app.runner.spool_folder import SpoolFolder, SpoolMissing, SpoolTaken
from backend.app.runner.spool_store import Spool, SpoolDamaged

MANY_LINES = 5_000
"""From so many lines on, it takes so long that it is announced."""


class Flush:
    """Delivers one or all."""

    def __init__(self, cli: Cli, folder: SpoolFolder, *, silent_seconds: float) -> None:
        self._cli = cli
        self._folder = folder
        self._silent_seconds = silent_seconds
        self._away: dict[str, ClientError] = {}  # servers that need not be asked again
        self.told: list[dict[str, Any]] = []
        """What became of each."""
        self.exit_status = OK

    async def run(self, deployment_id: str | None) -> None:
        """Deliver; raise ClientError if the one that was named cannot be taken."""
        wanted = self._cli.server_url() if self._cli.options.server else None
        for each in [deployment_id] if deployment_id else self._folder.ids():
            try:
                spool = self._folder.take(each)
            except SpoolMissing as error:
                if deployment_id:
                    raise ClientError(f"nothing is kept of {each}") from error
                continue
            except SpoolTaken as error:
                if deployment_id:
                    raise ClientError(f"{each} is still running, or being delivered by another process") from error
                self._tell(
                    each, self._head(each), "owned", "it is still running, or being delivered by another process"
                )
                continue
            except (SpoolDamaged, OSError) as error:
                self._fail(FAILED)
                self._tell(each, None, "kept", f"it cannot be read: {describe(error)}")
                continue
            try:
                if wanted is None or spool.head.server_url == wanted:
                    await self._deliver(spool)
            finally:
                spool.close()

    async def _deliver(self, spool: Spool) -> None:
        url, lines = spool.head.server_url, spool.waiting
        if url in self._away:  # not once more for each
            error = self._away[url]
            self._fail(exit_status(error))
            self._tell(spool.head.deployment_id, spool.head, "kept", describe(error), end=spool.state.end, kept=lines)
            return
        if lines >= MANY_LINES and not self._cli.output.is_json:
            self._cli.output.say(f"{_who(spool.head, spool.head.deployment_id)}: delivering {lines} lines …")
        async with self._client(url) as client:
            delivery = await deliver(spool, client, silent_seconds=self._silent_seconds)
        if delivery.is_over:
            self._tell(spool.head.deployment_id, spool.head, "delivered", end=spool.state.end, delivered=lines)
            return
        error = _error(delivery, url)
        if not delivery.is_refused or isinstance(error, NotLoggedIn):
            self._away[url] = error
        self._fail(exit_status(error))
        self._tell(
            spool.head.deployment_id, spool.head, "kept", _reason(delivery, error), end=spool.state.end,
            delivered=max(0, lines - delivery.waiting_lines), kept=delivery.waiting_lines,
        )  # fmt: skip

    def _head(self, deployment_id: str) -> Head | None:
        with suppress(SpoolMissing, OSError):  # only to name it
            return self._folder.look(deployment_id).head
        return None

    def _client(self, url: str) -> WindFlowClient:
        return self._cli.client_for(url, timeouts=Timeouts(connect_seconds=5, read_seconds=15))

    def _fail(self, status: int) -> None:
        self.exit_status = max(self.exit_status, status)

    def _tell(
        self, deployment_id: str, head: Head | None, outcome: str, reason: str | None = None,
        *, end: End | None = None, delivered: int = 0, kept: int = 0,
    ) -> None:  # fmt: skip
        self.told.append(
            {
                "deploymentId": deployment_id,
                "name": head.create.get("name") if head else None,
                "serverUrl": head.server_url if head else None,
                "outcome": outcome,
                "status": end.status if end else None,
                "deliveredLines": delivered,
                "keptLines": kept,
                "reason": reason,
            }
        )
        who = _who(head, deployment_id)
        if outcome == "delivered":
            how = end.status if end else "failed: its runner was killed, so its exit status is not known"
            lines = f"{_lines(delivered)} and " if delivered else ""
            self._cli.output.say(f"{who}: delivered, {lines}its end ({how}).")
        elif outcome == "owned":
            self._cli.output.say(f"{who}: left alone; {reason}.")
        else:
            self._cli.output.warn(f"{who}: kept; {reason}")


def _who(head: Head | None, deployment_id: str) -> str:
    return f"{head.create.get('name')} ({deployment_id})" if head else deployment_id


def _error(delivery: Delivery, url: str) -> ClientError:
    return delivery.error or ServerUnreachable(url, delivery.reason or "no answer in time")


def _reason(delivery: Delivery, error: ClientError) -> str:
    """Say why it was not delivered: the reporter's own words where it judged, else the server's."""
    is_judged = delivery.is_refused and not isinstance(error, NotLoggedIn)
    return delivery.reason if is_judged and delivery.reason else describe(error)


def _lines(count: int) -> str:
    return "1 line" if count == 1 else f"{count} lines"
