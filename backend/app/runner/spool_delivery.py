"""Delivers what spools hold: of one that was taken, and of all that wait for a server.

Used by `windflow spool flush` and by the next `deploy`. Delivering twice makes nothing twice: the deployment has the id
and the runner it had, each line its number. A spool goes when the server has everything.
"""

from collections.abc import Callable

from backend.app.client.api import WindFlowClient
from backend.app.client.backoff import ONCE
from backend.app.client.delivery import Delivery, ReporterTimes
from backend.app.client.errors import ClientError, NotLoggedIn
from backend.app.client.reporter import Create, Reporter
from backend.app.client.runner_api import RunnerApi
from backend.app.runner.spool_folder import SpoolFolder, SpoolMissing, SpoolTaken
from backend.app.runner.spool_store import Spool, SpoolDamaged
from backend.app.runner.spooled_lines import SpooledLines

RUNNER_LOST = "runner lost"
"""How the end is told of a command whose runner was killed: nobody saw its exit status."""
ACTIVE = ("pending", "running")


async def deliver(spool: Spool, client: WindFlowClient, *, silent_seconds: float) -> Delivery:
    """Deliver a spool and remove it if nothing is left; give up after so many seconds without an answer.

    The spool stays owned by the caller, who closes one that is not `is_over`.
    """
    head, state = spool.head, spool.state
    api = RunnerApi(client, head.deployment_id, runner_id=head.runner_id, policy=ONCE)
    if state.end is None and state.is_created and not spool.waiting and await _is_ended(api):
        delivery = Delivery(0, 0, True, None)
    else:
        times = ReporterTimes(finish=silent_seconds)
        create = None if state.is_created else creation_of(spool, api)
        async with Reporter(api, lines=SpooledLines(spool), create=create, is_running=False, times=times) as reporter:
            end = state.end
            delivery = await (
                reporter.finish(end.status, end.reason, end.exit_code)
                if end
                else reporter.finish("failed", RUNNER_LOST, None)
            )
    if delivery.is_over:
        spool.remove()
    elif delivery.is_refused and not isinstance(delivery.error, NotLoggedIn):
        spool.set_refusal(delivery.reason)
    return delivery


async def deliver_waiting(
    folder: SpoolFolder,
    client: WindFlowClient,
    *,
    silent_seconds: float,
    tell: Callable[[Spool, Delivery], None],
) -> None:
    """Deliver what earlier runs left for this server, the oldest first, until one of them gets no answer.

    What is owned by somebody, cannot be read or was refused before is left alone. Raises OSError.
    """
    for deployment_id in folder.ids():
        try:
            kept = folder.look(deployment_id)
            if kept.is_owned or kept.head is None or kept.state is None:
                continue
            if kept.head.server_url != client.server_url or kept.state.refusal is not None:
                continue
            spool = folder.take(deployment_id)
        except (SpoolTaken, SpoolMissing, SpoolDamaged):
            continue
        try:
            delivery = await deliver(spool, client, silent_seconds=silent_seconds)
        finally:
            spool.close()
        tell(spool, delivery)
        if not delivery.is_over and (not delivery.is_refused or isinstance(delivery.error, NotLoggedIn)):
            return


def creation_of(spool: Spool, api: RunnerApi) -> Create:
    """Return what makes a spool's deployment known to the server, and notes that it did."""

    async def create() -> None:
        await api.create(spool.head.create)
        spool.set_created()

    return create


async def _is_ended(api: RunnerApi) -> bool:
    """Tell whether the server knows an end already, so that a runner that was killed has nothing to add."""
    try:
        return (await api.show()).get("status") not in ACTIVE
    except ClientError:
        return False
