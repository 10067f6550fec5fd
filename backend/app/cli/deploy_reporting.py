"""A deployment's way to the server during one `deploy`: made known, reported, ended, or kept in a spool.

Used by `deploy_session.py`. Invariants: with a spool nothing that was printed is lost because a server was away;
without one, no command starts that the server does not know.
"""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from backend.app.cli.failures import describe
from backend.app.cli.output_relay import now
from backend.app.cli.runner_settings import RunnerSettings
from backend.app.client.api import WindFlowClient
from backend.app.client.backoff import ONCE, RetryPolicy
from backend.app.client.delivery import Delivery, ReporterTimes
from backend.app.client.errors import ApiError, ClientError, NotLoggedIn, ServerUnreachable
from backend.app.client.reporter import Reporter
from backend.app.client.runner_api import RunnerApi
from backend.app.runner.spool import Head
from backend.app.runner.spool_delivery import creation_of, deliver_waiting
from backend.app.runner.spool_folder import SpoolFolder, SpoolTaken
from backend.app.runner.spool_store import Spool
from backend.app.runner.spooled_lines import SpooledLines

START_POLICY = RetryPolicy(attempts=3, give_up_seconds=5.0)
"""Before the start somebody waits at the terminal: a server that is away is told soon."""
START_SECONDS = 5.0
"""How long a start with a spool waits for a server that takes a connection and does not answer."""
PATIENCE_SECONDS = 1.5
"""After that, who waits at the terminal is told for what."""
SYNC_SECONDS = 1.0
"""What a power cut may cost of the lines that no server has yet."""


@dataclass(frozen=True, slots=True)
class Registration:
    """What is told of the deployment before it runs; masked."""

    name: str
    target: str | None
    program: str
    deployment_id: str | None


class DeployReporting:
    """Use with `async with`: entering makes the spool, leaving lets go of it."""

    def __init__(
        self,
        client: WindFlowClient,
        registration: Registration,
        settings: RunnerSettings,
        folder: SpoolFolder | None,
        *,
        deliver_seconds: float,
        note: Callable[[str], None],
    ) -> None:
        """`folder` None: no spool."""
        self._client = client
        self._settings = settings
        self._folder = folder
        self._deliver_seconds = deliver_seconds
        self._note = note
        self._spool: Spool | None = None
        self._sync: asyncio.Task[None] | None = None
        self._earlier: asyncio.Task[None] | None = None
        self._is_known = False
        self._api = RunnerApi(client, registration.deployment_id, policy=ONCE)
        self._body = self._api.creation(registration.name, registration.target, registration.program)

    @property
    def deployment_id(self) -> str:
        """The deployment's id."""
        return self._api.deployment_id

    @property
    def kept_in(self) -> str | None:
        """The folder of the spool, while there is one."""
        return None if self._spool is None else str(self._spool.folder)

    async def __aenter__(self) -> "DeployReporting":
        if self._folder is not None:
            head = Head(self._client.server_url, self._api.runner_id, self._body, now())
            try:
                self._spool = self._folder.create(head)
            except SpoolTaken as error:
                raise ClientError(f"{error}; deliver it first: windflow spool flush {self.deployment_id}") from error
            except OSError as error:
                self._note(f"no spool, so a server that is away for long costs lines: {describe(error)}")
            else:
                self._sync = asyncio.create_task(self._keep_synced(self._spool), name="spool sync")
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [task for task in (self._sync, self._earlier) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._spool is not None:
            self._spool.close()

    async def begin(self) -> None:
        """Make the deployment known and running. Raises ClientError if the command must not start.

        With a spool, a server that is away is no reason for that.
        """
        try:
            if self._spool is None:
                await self._register(RunnerApi(
                    self._client, self.deployment_id, runner_id=self._api.runner_id, policy=START_POLICY
                ))  # fmt: skip
                return
            async with asyncio.timeout(START_SECONDS):
                await self._register(self._api)
        except (TimeoutError, ServerUnreachable) as error:
            if self._spool is None:
                raise
            self._note(f"{describe(error) if str(error) else 'the server does not answer'}; the command starts "
                       f"anyway, its output is kept")  # fmt: skip
        except ApiError as error:
            if self._spool is None or not error.is_temporary:
                raise
            self._note(f"{describe(error)}; the command starts anyway, its output is kept")
        else:
            self._begin_earlier()

    async def _register(self, api: RunnerApi) -> None:
        await (api.create(self._body) if self._spool is None else creation_of(self._spool, api)())
        await api.set_status("running")
        self._is_known = True

    async def abandon(self, reason: str | None = None) -> None:
        """Forget a deployment whose command did not start; with a reason, tell the server that it is cancelled."""
        if reason is not None:
            with suppress(ClientError, TimeoutError):
                async with asyncio.timeout(3):
                    await self._api.set_status("cancelled", reason)
        self._remove_spool()

    def reporter(self, is_cancel_pushed: Callable[[], bool]) -> Reporter:
        """Return the reporter of the running command."""
        times = ReporterTimes(heartbeat=self._settings.heartbeat_seconds, finish=self._deliver_seconds)
        create = None
        if self._spool is not None and not self._spool.state.is_created:
            create = creation_of(self._spool, self._api)
        return Reporter(
            self._api,
            lines=None if self._spool is None else SpooledLines(self._spool),
            create=create,
            is_running=self._is_known,
            times=times,
            notice=self._note,
            is_cancel_pushed=is_cancel_pushed,
        )

    async def finish(self, reporter: Reporter, status: str, reason: str | None, exit_code: int | None) -> Delivery:
        """Deliver the rest and the end. Cancelling it leaves in the spool what is not delivered."""
        if self._spool is not None:
            self._spool.set_end(status, reason, exit_code, now())
        patience = asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self._tell_waiting)
        try:
            delivery = await reporter.finish(status, reason, exit_code)
        finally:
            patience.cancel()
        if delivery.is_over:
            self._remove_spool()
        elif self._spool is not None and delivery.is_refused and not isinstance(delivery.error, NotLoggedIn):
            self._spool.set_refusal(delivery.reason)
        if delivery.is_over:
            self._begin_earlier()
        elif self._earlier is not None:
            self._earlier.cancel()
        return delivery

    async def deliver_earlier(self) -> None:
        """Wait until what earlier runs left is delivered; cancelling it leaves the rest for the next time."""
        if self._earlier is not None and not self._earlier.done():
            self._note("delivering what earlier deployments left; Ctrl-C leaves it for the next time")
        if self._earlier is not None:
            await asyncio.gather(self._earlier, return_exceptions=True)

    def tell_kept(self) -> None:
        """Say where the rest is, and how it gets to the server."""
        if self._spool is None:
            return
        self._sync_now(self._spool)
        if self._spool.trouble is not None:
            self._note(f"the spool could not take everything: {self._spool.trouble}")
        self._note(f"kept in {self._spool.folder}; deliver it with: windflow spool flush {self.deployment_id}")

    def _tell_waiting(self) -> None:
        kept = (
            f" keeps it for: windflow spool flush {self.deployment_id}" if self._spool is not None else " gives it up"
        )
        self._note(f"the command has ended, the rest is being delivered; Ctrl-C{kept}")

    def _begin_earlier(self) -> None:
        if self._earlier is None and self._folder is not None:
            self._earlier = asyncio.create_task(self._deliver_earlier(self._folder), name="earlier spools")

    async def _deliver_earlier(self, folder: SpoolFolder) -> None:
        def tell(spool: Spool, delivery: Delivery) -> None:
            name = f"{spool.head.create['name']} ({spool.head.deployment_id})"
            if delivery.is_over:
                self._note(f"delivered what was kept of {name}")
            else:
                self._note(f"what is kept of {name} was not delivered: {delivery.reason}")

        with suppress(OSError):  # told by the next `spool list`
            await deliver_waiting(folder, self._client, silent_seconds=self._deliver_seconds, tell=tell)

    def _remove_spool(self) -> None:
        if self._spool is not None:
            try:
                self._spool.remove()
            except OSError as error:
                self._note(f"the spool is delivered, and cannot be removed: {describe(error)}")
            self._spool = None

    async def _keep_synced(self, spool: Spool) -> None:
        """Bring to the disk what no server has yet; what a server has needs no sync."""
        synced = 1
        while True:
            await asyncio.sleep(SYNC_SECONDS)
            if spool.waiting and spool.next_line != synced and spool.descriptor >= 0:
                synced = spool.next_line
                # Of its own: the spool may go on to its next file meanwhile.
                descriptor = os.dup(spool.descriptor)
                try:
                    await asyncio.to_thread(_sync, descriptor)
                finally:
                    os.close(descriptor)

    def _sync_now(self, spool: Spool) -> None:
        if spool.descriptor >= 0:
            _sync(spool.descriptor)


def _sync(descriptor: int) -> None:
    with suppress(OSError):  # a disk that fails is told by the next write
        os.fsync(descriptor)
