"""One run of `windflow deploy`: the command, its lines to the server, its bytes to the terminal, its end.

Puts `runner` (the process) and `DeployReporting` (the way to the server) together. Invariants: no command
outlives this process; the exit status is the command's alone.
"""

import asyncio
import os
import shlex
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from backend.app.cli.context import Cli
from backend.app.cli.deploy_reporting import DeployReporting, Registration
from backend.app.cli.failures import INTERRUPTED, NOT_EXECUTABLE, TIMED_OUT
from backend.app.cli.live_display import LiveDisplay, flush_python_output
from backend.app.cli.output_relay import REASON_CHARACTERS, OutputRelay, now
from backend.app.cli.runner_settings import RunnerSettings
from backend.app.client.api import WindFlowClient
from backend.app.client.backoff import Backoff
from backend.app.client.delivery import Delivery
from backend.app.client.errors import ClientError
from backend.app.client.items import Subscription
from backend.app.client.reporter import Reporter
from backend.app.client.rest import Timeouts
from backend.app.client.runner_api import LogLine
from backend.app.client.stream import EventStream
from backend.app.runner.masking import Mask
from backend.app.runner.process import CommandNotStartable, CommandProcess, Durations, Exit, Mode, terminal_size
from backend.app.runner.progress import ProgressPattern
from backend.app.runner.spool_folder import SpoolFolder, default_folder

NAME_CHARACTERS = 128
PROGRAM_CHARACTERS = 4096
SHOW_SECONDS = 2.0
"""How long a terminal may take to show the last output of a command that was stopped."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


T = TypeVar("T")
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
    has_spool: bool = True
    settings: RunnerSettings = field(default_factory=RunnerSettings)


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
        self._name = self._mask.apply(_text(options.name) or _text(_program(options.argv))[:NAME_CHARACTERS])
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
            async with self._reporting() as reporting:
                return await self._report(reporting) if await self._begin(reporting) else INTERRUPTED
        finally:
            self._display.close()
            for number in handled:
                loop.remove_signal_handler(number)

    def _signalled(self, number: signal.Signals) -> None:
        self._on_signal(number)

    def _reporting(self) -> DeployReporting:
        options = self._options
        program = _text(shlex.join(options.argv) if options.shows_command else _program(options.argv))
        return DeployReporting(
            self._client,
            Registration(
                name=self._name,
                target=self._mask.apply(_text(options.target)) or None,
                program=self._mask.apply(program)[:PROGRAM_CHARACTERS],
                deployment_id=options.deployment_id,
            ),
            options.settings,
            SpoolFolder(default_folder(), options.settings.spool_bytes) if options.has_spool else None,
            deliver_seconds=options.deliver_seconds,
            note=self._note,
        )

    async def _begin(self, reporting: DeployReporting) -> bool:
        """Make the deployment known and running; False if a signal came first."""
        task = asyncio.create_task(reporting.begin())
        self._on_signal = _cancelling(task)
        try:
            await task
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
            await reporting.abandon("stopped before it began")
            return False
        except ClientError:
            await reporting.abandon()
            raise
        if not self._cli.output.is_json:
            url = f"{self._client.server_url}/deployments/{reporting.deployment_id}"
            self._note(f"deployment {self._name} is {reporting.deployment_id}: {url}")
        return True

    async def _report(self, reporting: DeployReporting) -> int:
        async with reporting.reporter(self._is_cancel_pushed) as reporter:
            follower = asyncio.create_task(self._follow_cancel(reporting.deployment_id, reporter))
            try:
                outcome = await self._execute(reporter)
            finally:
                follower.cancel()
                await asyncio.gather(follower, return_exceptions=True)
            delivery = await self._unless_interrupted(
                reporting.finish(reporter, outcome.status, outcome.reason, outcome.exit_code)
            )
        self._conclude(reporting, outcome, delivery)
        await self._unless_interrupted(reporting.deliver_earlier())
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
        text = self._mask.apply(_text(message))
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

    async def _unless_interrupted(self, act: Coroutine[Any, Any, T]) -> T | None:
        """Do it; a further Ctrl-C gives it up (None)."""
        task = asyncio.create_task(act)
        self._on_signal = _cancelling(task)
        try:
            return await task
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
            return None

    def _conclude(self, reporting: DeployReporting, outcome: Outcome, delivery: Delivery | None) -> None:
        kept_in = reporting.kept_in
        if not self._options.is_quiet and outcome.status != "success" and not self._cli.output.is_json:
            self._note(f"{outcome.status}: {outcome.reason}")
        if delivery is None:
            self._note("not everything was delivered: given up with Ctrl-C")
        elif not delivery.is_complete:
            self._note(_shortfall(delivery, outcome.status))
        reporting.tell_kept()
        if self._cli.output.is_json:
            self._cli.output.json(
                {
                    "deploymentId": reporting.deployment_id,
                    "name": self._name,
                    "status": outcome.status,
                    "reason": outcome.reason,
                    "exitCode": outcome.exit_code,
                    "undeliveredLines": delivery.undelivered_lines if delivery else None,
                    "isStatusDelivered": delivery is not None and delivery.is_status_delivered,
                    "keptIn": kept_in,
                }
            )

    async def _follow_cancel(self, deployment_id: str, reporter: Reporter) -> None:
        """Hear of a cancel at once; while the socket cannot be had, the heartbeats ask more often instead."""
        backoff, attempt = Backoff(first_seconds=1.0, longest_seconds=30.0), 0
        await reporter.is_known.wait()
        while True:
            self._events = self._client.events(Subscription(("DEPLOYMENT_CANCEL_REQUESTED",), deployment_id))
            with suppress(ClientError):
                async with self._events:
                    attempt = 0
                    async for event in self._events:
                        data = getattr(event, "data", {})
                        if getattr(event, "type", "") == "DEPLOYMENT_CANCEL_REQUESTED" and (
                            data.get("deploymentId") == deployment_id
                        ):
                            reporter.cancel_requested.set()
            attempt += 1
            await asyncio.sleep(backoff.delay_seconds(attempt))

    def _is_cancel_pushed(self) -> bool:
        return self._events is not None and self._events.is_connected

    def _note(self, text: str) -> None:
        self._display.erase_bar()
        self._cli.output.warn(text)


def _shortfall(delivery: Delivery, status: str) -> str:
    """Say what was not delivered, and why."""
    count = delivery.undelivered_lines
    missing = ["1 line" if count == 1 else f"{count} lines"] if count else []
    if not delivery.is_status_delivered:
        missing.append(f"the end ({status})")
    verb = "was" if len(missing) == 1 and count <= 1 else "were"
    return f"{' and '.join(missing)} {verb} not delivered: {delivery.reason or 'there was no room to keep them'}"


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
