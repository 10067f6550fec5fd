"""One run of `windflow deploy`: the command, its lines to the server, its bytes to the terminal, its end.

Puts `runner` (the process) and `client` (the reports) together. Invariants: no command starts that
the server does not know; none outlives this process; the exit status is the command's alone.
"""

import asyncio
import os
import shlex
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from backend.app.cli.context import Cli
from backend.app.cli.failures import INTERRUPTED, NOT_EXECUTABLE, TIMED_OUT
from backend.app.cli.live_display import LiveDisplay, flush_python_output
from backend.app.cli.output_relay import REASON_CHARACTERS, OutputRelay, now
from backend.app.client.api import WindFlowClient
from backend.app.client.backoff import ONCE, RetryPolicy
from backend.app.client.errors import ClientError
from backend.app.client.reporter import Delivery, Reporter, ReporterTimes
from backend.app.client.rest import Timeouts
from backend.app.client.runner_api import LogLine, RunnerApi
from backend.app.client.stream import EventStream, Subscription
from backend.app.runner.masking import Mask
from backend.app.runner.process import CommandNotStartable, CommandProcess, Durations, Exit, Mode, terminal_size
from backend.app.runner.progress import ProgressPattern

NAME_CHARACTERS = 128
PROGRAM_CHARACTERS = 4096
START_POLICY = RetryPolicy(attempts=3, give_up_seconds=5.0)
"""Before the start somebody waits at the terminal: a server that is away is told soon."""
SHOW_SECONDS = 2.0
"""How long a terminal may take to show the last output of a command that was stopped."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


OnSignal = Callable[[signal.Signals], None]
"""What a signal to this process does at the moment."""


@dataclass(frozen=True, slots=True)
class DeployOptions:
    """What the command line asked for."""

    argv: tuple[str, ...]
    name: str | None = None
    target: str | None = None
    deployment_id: str | None = None
    pattern: ProgressPattern | None = None
    masked: tuple[str, ...] = ()
    shows_command: bool = False
    kill_after_seconds: float = 10.0
    timeout_seconds: float | None = None
    deliver_seconds: float = 30.0
    is_quiet: bool = False
    cwd: str | None = None
    mode: Mode = "pty"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: what is reported, and what this process exits with."""

    status: str
    reason: str | None
    exit_code: int | None
    exit_status: int


def run_deployment(cli: Cli, options: DeployOptions) -> int:
    """Run the deployment to its end and return the exit status. Raises ClientError if it could not be begun."""
    return asyncio.run(_run(cli, options))


async def _run(cli: Cli, options: DeployOptions) -> int:
    async with cli.client(timeouts=Timeouts(connect_seconds=5, read_seconds=15)) as client:
        return await DeploySession(cli, client, options).run()


class DeploySession:
    """Runs one command once."""

    def __init__(self, cli: Cli, client: WindFlowClient, options: DeployOptions) -> None:
        self._cli = cli
        self._client = client
        self._options = options
        self._mask = Mask(options.masked)
        self._name = _text(options.name) or _text(_program(options.argv))[:NAME_CHARACTERS]
        self._display = LiveDisplay(
            2 if cli.output.is_json else 1, is_hidden=options.is_quiet, is_plain=cli.options.is_plain
        )
        self._relay = OutputRelay(self._mask, options.pattern, self._display, is_split=options.mode == "split")
        self._stop_reason: str | None = None
        self._on_signal: OnSignal = lambda number: None
        self._events: EventStream | None = None

    async def run(self) -> int:
        """Register, run, report; return the exit status."""
        loop = asyncio.get_running_loop()
        # What was ignored from the start (nohup, a shell's background) stays so.
        handled = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        for number in handled:
            loop.add_signal_handler(number, self._signalled, number)
        try:
            api = RunnerApi(self._client, self._options.deployment_id, policy=START_POLICY)
            if not await self._begin(api):
                return INTERRUPTED
            return await self._report(RunnerApi(self._client, api.deployment_id, runner_id=api.runner_id, policy=ONCE))
        finally:
            self._display.close()
            for number in handled:
                loop.remove_signal_handler(number)

    def _signalled(self, number: signal.Signals) -> None:
        self._on_signal(number)

    async def _begin(self, api: RunnerApi) -> bool:
        """Make the deployment known and running; False if a signal came first."""
        argv = self._options.argv
        program = self._mask.apply(_text(shlex.join(argv) if self._options.shows_command else _program(argv)))

        async def register() -> None:
            await api.create(self._name, _text(self._options.target) or None, program[:PROGRAM_CHARACTERS])
            await api.set_status("running")

        task = asyncio.create_task(register())
        self._on_signal = _cancelling(task)
        try:
            await task
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
            with suppress(ClientError, TimeoutError):
                async with asyncio.timeout(3):
                    await api.set_status("cancelled", "stopped before it began")
            return False
        if not self._cli.output.is_json:
            url = f"{self._client.server_url}/deployments/{api.deployment_id}"
            self._note(f"deployment {self._name} is {api.deployment_id}: {url}")
        return True

    async def _report(self, api: RunnerApi) -> int:
        times = ReporterTimes(finish=self._options.deliver_seconds)
        async with Reporter(api, times=times, notice=self._note, is_cancel_pushed=self._is_cancel_pushed) as reporter:
            follower = asyncio.create_task(self._follow_cancel(api.deployment_id, reporter.cancel_requested))
            try:
                outcome = await self._execute(reporter)
            finally:
                follower.cancel()
                await asyncio.gather(follower, return_exceptions=True)
            delivery = await self._deliver(reporter, outcome)
        self._conclude(api.deployment_id, outcome, delivery)
        return outcome.exit_status

    async def _execute(self, reporter: Reporter) -> Outcome:
        """Run the command until its output is over; return how it ended."""
        options = self._options
        process = CommandProcess(
            options.argv,
            mode=options.mode,
            cwd=options.cwd,
            durations=Durations(kill_after_seconds=options.kill_after_seconds, timeout_seconds=options.timeout_seconds),
        )
        flush_python_output()
        try:
            async with process:
                stopping = asyncio.create_task(self._stop_when_asked(process, reporter.cancel_requested))
                try:
                    await self._relay.carry(process, reporter)
                    ended = await process.wait()
                finally:
                    stopping.cancel()
                    await asyncio.gather(stopping, return_exceptions=True)
        except CommandNotStartable as error:
            return await self._not_started(error.message, error.exit_code, reporter)
        except OSError as error:
            return await self._not_started(f"cannot run the command: {error}", NOT_EXECUTABLE, reporter)
        await self._display.finish()
        return self._judge(ended)

    async def _not_started(self, message: str, exit_code: int, reporter: Reporter) -> Outcome:
        self._note(message)
        text = _text(message)
        await reporter.add(LogLine(text, time=now(), level="error"))
        return Outcome("failed", text[:REASON_CHARACTERS], exit_code, exit_code)

    async def _stop_when_asked(self, process: CommandProcess, cancel_requested: asyncio.Event) -> None:
        """Stop the command on a signal or a cancel request; a second signal kills at once."""
        interrupts: asyncio.Queue[str] = asyncio.Queue(maxsize=8)

        def on_signal(number: signal.Signals) -> None:
            with suppress(asyncio.QueueFull):
                interrupts.put_nowait(number.name)

        self._on_signal = on_signal
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGWINCH, lambda: _resize(process))
        cancel = asyncio.create_task(cancel_requested.wait())
        interrupt = asyncio.create_task(interrupts.get())
        try:
            await asyncio.wait({cancel, interrupt}, return_when=asyncio.FIRST_COMPLETED)
            if interrupt.done():
                self._stop_reason = "stopped with Ctrl-C" if interrupt.result() == "SIGINT" else interrupt.result()
                self._note("stopping the command; Ctrl-C again kills it at once")
            else:
                self._stop_reason = "cancelled"
                self._note("a cancel was requested; stopping the command")
            stop = asyncio.create_task(process.stop())
            if interrupt.done():
                interrupt = asyncio.create_task(interrupts.get())
            await asyncio.wait({stop, interrupt}, return_when=asyncio.FIRST_COMPLETED)
            left = await (process.stop(0) if not stop.done() else stop)
            if left:
                self._note(f"could not end: {', '.join(map(str, left))}")
            # A pager that is paused must not keep a stopped deployment from ending.
            await asyncio.sleep(SHOW_SECONDS)
            self._display.give_up()
        finally:
            loop.remove_signal_handler(signal.SIGWINCH)
            cancel.cancel()
            interrupt.cancel()

    def _judge(self, ended: Exit) -> Outcome:
        code = ended.exit_code
        if ended.is_timed_out:
            return Outcome("failed", f"timed out after {self._options.timeout_seconds:g} s", code, TIMED_OUT)
        if ended.is_stopped and self._stop_reason is not None:
            return Outcome("cancelled", self._stop_reason, code, INTERRUPTED)
        if code == 0:
            return Outcome("success", None, 0, 0)
        if ended.signal_number is not None:
            return Outcome("failed", f"ended by signal {_signal_name(ended.signal_number)}", code, code)
        return Outcome("failed", f"exit status {code}", code, code)

    async def _deliver(self, reporter: Reporter, outcome: Outcome) -> Delivery | None:
        """Deliver the rest; a further Ctrl-C gives it up (None)."""
        finishing = asyncio.create_task(reporter.finish(outcome.status, outcome.reason, outcome.exit_code))
        self._on_signal = _cancelling(finishing)
        try:
            return await finishing
        except asyncio.CancelledError:
            if not finishing.cancelled():
                raise
            return None

    def _conclude(self, deployment_id: str, outcome: Outcome, delivery: Delivery | None) -> None:
        if delivery is None:
            self._note("not everything was delivered: given up with Ctrl-C")
        elif delivery.undelivered_lines:
            self._note(f"{delivery.undelivered_lines} lines were not delivered: {delivery.reason}")
        if delivery is not None and not delivery.is_status_delivered:
            self._note(f"the end ({outcome.status}) was not delivered: {delivery.reason}")
        if self._cli.output.is_json:
            self._cli.output.json(
                {
                    "deploymentId": deployment_id,
                    "name": self._name,
                    "status": outcome.status,
                    "reason": outcome.reason,
                    "exitCode": outcome.exit_code,
                    "undeliveredLines": delivery.undelivered_lines if delivery else None,
                    "isStatusDelivered": delivery is not None and delivery.is_status_delivered,
                }
            )
        elif not self._options.is_quiet and outcome.status != "success":
            self._note(f"{outcome.status}: {outcome.reason}")

    async def _follow_cancel(self, deployment_id: str, cancel_requested: asyncio.Event) -> None:
        """Hear of a cancel at once; where the socket cannot be had, the heartbeats ask more often instead."""
        wanted = Subscription(("DEPLOYMENT_CANCEL_REQUESTED",), deployment_id)
        self._events = self._client.events(wanted)
        with suppress(ClientError):
            async with self._events:
                async for event in self._events:
                    data = getattr(event, "data", {})
                    if getattr(event, "type", "") == "DEPLOYMENT_CANCEL_REQUESTED" and (
                        data.get("deploymentId") == deployment_id
                    ):
                        cancel_requested.set()

    def _is_cancel_pushed(self) -> bool:
        return self._events is not None and self._events.is_connected

    def _note(self, text: str) -> None:
        self._display.erase_bar()
        self._cli.output.warn(text)


def _program(argv: tuple[str, ...]) -> str:
    return os.path.basename(argv[0]) or argv[0]


def _cancelling(task: "asyncio.Task[Any]") -> OnSignal:
    def cancel(number: signal.Signals) -> None:
        task.cancel()

    return cancel


def _resize(process: CommandProcess) -> None:
    size = terminal_size()
    if size is not None:
        process.resize(size)


def _text(value: str | None) -> str:
    """Return an argument as valid Unicode: bytes that are none stand as surrogates in it, which JSON cannot hold."""
    return (value or "").encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
