"""Stopping: nothing that a command started is left, and nothing else is touched."""

import asyncio
import os
import signal
import subprocess
from pathlib import Path

import pytest

from backend.app.runner.process import CommandProcess, Durations, Mode
from backend.app.runner.process_tree import MARKER, ProcessTree, _Process
from tests.unit.runner.running import exists, is_alive, pids_after, python, read_until, run, shell, until

each_mode = pytest.mark.parametrize("mode", ["pty", "pipe", "split"])

SHORT = Durations(kill_after_seconds=0.3)
LONG = Durations(kill_after_seconds=600)

IGNORING = "import signal, os, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGHUP, 1)\n"
DAEMON = (
    IGNORING
    + """
def detach():
    if os.fork(): os._exit(0)
    os.setsid()
    if os.fork(): os._exit(0)
if os.fork() == 0:
    detach()
    os.write(1, b"pid %d\\n" % os.getpid())
    time.sleep(600)
os.wait()
"""
)


async def all_gone(*pids: int) -> None:
    """Waits until none of the processes lives."""
    await until(lambda: not any(map(is_alive, pids)))


@each_mode
async def test_stop_asks_first(mode: Mode) -> None:
    """The command gets SIGTERM; what it prints and returns then is its own."""
    source = 'trap "echo cleaned; exit 7" TERM; echo ready; while :; do sleep 0.05; done'
    async with CommandProcess(shell(source), mode=mode, durations=LONG) as process:
        await read_until(process, b"ready")
        stopping = asyncio.create_task(process.stop())
        await read_until(process, b"cleaned")
        assert await stopping == ()
        ended = await process.wait()
    assert (ended.exit_code, ended.is_stopped, ended.is_timed_out) == (7, True, False)


@each_mode
async def test_child_that_ignores_term_is_ended(mode: Mode) -> None:
    """SIGKILL after the time to ask."""
    async with CommandProcess(python(IGNORING + "print('ready', flush=True); time.sleep(600)"), mode=mode) as process:
        await read_until(process, b"ready")
        async with asyncio.timeout(20):
            assert await process.stop(0.2) == ()
        assert (await process.wait()).exit_code == 137
    assert not exists(process.pid)


@each_mode
async def test_children_are_ended_with_it(mode: Mode) -> None:
    """The whole process group ends, also children that ignore TERM and outlive the command itself."""
    source = f"""{IGNORING}
pids = []
for _ in range(3):
    pid = os.fork()
    if not pid: time.sleep(600)
    pids.append(pid)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
print("pids", *pids, flush=True)
time.sleep(600)"""
    async with CommandProcess(python(source), mode=mode, durations=SHORT) as process:
        pids = await pids_after(process, "pids", 3)
        assert await process.stop() == ()
        assert (await process.wait()).exit_code == 143, "it did end when asked"
        assert not any(map(is_alive, pids))


@each_mode
async def test_daemon_is_ended(mode: Mode) -> None:
    """A child that forked twice and left the session ends as well, ignoring TERM or not."""
    async with CommandProcess(python(DAEMON + "time.sleep(600)"), mode=mode, durations=SHORT) as process:
        (pid,) = await pids_after(process, "pid")
        assert os.getsid(pid) != process.pid
        assert await process.stop() == ()
        assert not is_alive(pid)


async def test_daemon_without_our_environment_is_ended_while_its_parent_lives() -> None:
    """A child of another session and without the marker is found by its parents."""
    source = 'env -i setsid sh -c \'trap "" TERM; echo "pid $$"; while :; do /bin/sleep 0.1; done\'; wait'
    async with CommandProcess(shell(source), durations=SHORT) as process:
        (pid,) = await pids_after(process, "pid")
        assert MARKER.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
        assert await process.stop() == ()
        assert not is_alive(pid)


async def test_daemons_get_asked_too() -> None:
    """What left the group gets the same SIGTERM and the same time."""
    source = 'setsid sh -c \'trap "echo asked; exit" TERM; echo "pid $$"; while :; do sleep 0.05; done\' & wait'
    async with CommandProcess(shell(source), durations=LONG) as process:
        (pid,) = await pids_after(process, "pid")
        stopping = asyncio.create_task(process.stop())
        await read_until(process, b"asked")
        async with asyncio.timeout(20):
            assert await stopping == ()
        assert not is_alive(pid)


async def test_what_forks_without_end_is_ended() -> None:
    """Processes that fork while being looked for do not escape."""
    source = 'trap "" TERM; echo ready; while :; do (trap "" TERM; sleep 0.01; sleep 0.01) & sleep 0.01; done'
    async with CommandProcess(shell(source), durations=SHORT) as process:
        await read_until(process, b"ready")
        reading = asyncio.create_task(read_to_the_end(process))
        async with asyncio.timeout(20):
            assert await process.stop() == ()
        await reading
        assert process._tree.find() == ()


async def read_to_the_end(process: CommandProcess) -> None:
    """Reads the output without looking at it."""
    async for _ in process:
        pass


async def test_suspended_command_obeys() -> None:
    """A suspended command is continued, so that it can end when asked."""
    source = 'trap "exit 9" TERM; echo ready; kill -STOP $$; while :; do sleep 0.05; done'
    async with CommandProcess(shell(source), durations=LONG) as process:
        await read_until(process, b"ready")
        await until(lambda: Path(f"/proc/{process.pid}/stat").read_text().split()[2] == "T")
        async with asyncio.timeout(20):
            await process.stop()
        assert (await process.wait()).exit_code == 9


@each_mode
async def test_children_have_the_whole_time_to_end(mode: Mode) -> None:
    """A child may clean up although the command itself has ended already."""
    source = """(trap 'sleep 0.3; echo cleaned; exit' TERM; echo ready; while :; do sleep 0.05; done) & wait"""
    async with CommandProcess(shell("trap '' HUP; " + source), mode=mode, durations=LONG) as process:
        await read_until(process, b"ready")
        stopping = asyncio.create_task(process.stop())
        assert (await process.wait()).exit_code == 143
        await read_until(process, b"cleaned")
        assert await stopping == ()


async def test_later_stop_does_not_lengthen_the_time() -> None:
    """Who asks with more patience does not take back what was promised to another."""
    async with CommandProcess(python(IGNORING + "print('ready', flush=True); time.sleep(600)")) as process:
        await read_until(process, b"ready")
        first = asyncio.create_task(process.stop(0.2))
        await asyncio.sleep(0)
        async with asyncio.timeout(20):
            assert await process.stop(600) == await first == ()


async def test_second_stop_shortens_the_time() -> None:
    """Ctrl-C twice ends the command at once, and both callers are answered."""
    async with CommandProcess(python(IGNORING + "print('ready', flush=True); time.sleep(600)")) as process:
        await read_until(process, b"ready")
        first = asyncio.create_task(process.stop(600))
        await asyncio.sleep(0)
        async with asyncio.timeout(20):
            assert await process.stop(0) == await first == ()


async def test_stopping_goes_on_when_its_caller_is_cancelled() -> None:
    """Only the answer is given up."""
    async with CommandProcess(["sleep", "600"], durations=LONG) as process:
        stopping = asyncio.create_task(process.stop())
        await asyncio.sleep(0)
        stopping.cancel()
        async with asyncio.timeout(20):
            assert (await process.wait()).is_stopped


async def test_timeout() -> None:
    """`--timeout`: a command that runs longer is stopped, and one that does not is not."""
    _, ended = await run(["sleep", "600"], durations=Durations(timeout_seconds=0.1))
    assert (ended.exit_code, ended.is_stopped, ended.is_timed_out) == (143, True, True)
    _, ended = await run(["true"], durations=Durations(timeout_seconds=60))
    assert (ended.exit_code, ended.is_stopped, ended.is_timed_out) == (0, False, False)


@each_mode
async def test_cancelled_task_leaves_no_process(mode: Mode) -> None:
    """Cancelling the task that runs the command stops the command and everything it started."""
    told: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()

    async def deploy() -> None:
        async with CommandProcess(python(DAEMON + "time.sleep(600)"), mode=mode, durations=SHORT) as process:
            told.set_result([process.pid, *await pids_after(process, "pid")])
            await read_to_the_end(process)

    task = asyncio.create_task(deploy())
    pids = await told
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not any(map(is_alive, pids))
    assert not exists(pids[0]), "not even a zombie"


@each_mode
async def test_task_cancelled_twice_leaves_no_process(mode: Mode) -> None:
    """A second cancellation does not wait for the time to ask."""
    told: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()

    async def deploy() -> None:
        async with CommandProcess(python(DAEMON + "time.sleep(600)"), mode=mode, durations=LONG) as process:
            told.set_result([process.pid, *await pids_after(process, "pid")])
            await read_to_the_end(process)

    task = asyncio.create_task(deploy())
    pids = await told
    task.cancel()
    await asyncio.sleep(0.05)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await all_gone(*pids)
    await until(lambda: not exists(pids[0]))


async def test_error_in_the_block_leaves_no_process() -> None:
    """Leaving the block by an error stops the command, whose last words cannot keep it from ending."""
    source = "import signal, os, time\n" + (
        "signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b'x' * 1_000_000), os._exit(0)))\n"
        "print('ready', flush=True); time.sleep(600)"
    )
    with pytest.raises(LookupError):
        async with asyncio.timeout(20), CommandProcess(python(source), durations=LONG) as process:
            await read_until(process, b"ready")
            raise LookupError
    assert (await process.wait()).exit_code == 0
    assert not exists(process.pid)


async def test_stopping_a_command_that_has_ended() -> None:
    """It ends what was left behind, and changes nothing about the exit; after the block it does nothing."""
    source = 'trap "" HUP; sleep 600 & echo "pid $!"; exit 5'
    async with CommandProcess(shell(source), durations=SHORT) as process:
        (pid,) = await pids_after(process, "pid")
        ended = await process.wait()
        assert (ended.exit_code, ended.is_stopped) == (5, False)
        assert await process.stop() == ()
        assert not is_alive(pid)
        assert await process.wait() == ended
    assert await process.stop() == ()


async def test_pid_is_kept_until_the_block_is_left() -> None:
    """Until then no other process can get the pid, so signals to the group are safe."""
    async with CommandProcess(["true"]) as process:
        await process.wait()
        assert exists(process.pid)
        assert not is_alive(process.pid)
    assert not exists(process.pid)


async def test_leaving_the_block_ends_the_reading_of_another_task() -> None:
    """A task that reads the output of what was left behind is not forgotten."""
    source = 'trap "" HUP; setsid sleep 600 & echo "pid $!"'
    async with CommandProcess(shell(source), durations=Durations(linger_seconds=600)) as process:
        (pid,) = await pids_after(process, "pid")
        reading = asyncio.create_task(read_to_the_end(process))
        await process.wait()
    async with asyncio.timeout(20):
        await reading
    os.kill(pid, signal.SIGKILL)


async def test_stopping_after_the_block_touches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """By then the pid may be another process's."""
    async with CommandProcess(["true"]) as process:
        await process.wait()
    monkeypatch.setattr(ProcessTree, "find", lambda tree: pytest.fail("it looked for processes"))
    monkeypatch.setattr(ProcessTree, "send", lambda tree, number: pytest.fail("it sent a signal"))
    assert await process.stop() == ()


async def test_what_cannot_be_ended_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command of another user, whom our signals do not reach, keeps nobody waiting for ever."""
    monkeypatch.setattr(ProcessTree, "send", lambda tree, number: None)
    durations = Durations(kill_after_seconds=0, settle_seconds=0.1)
    async with asyncio.timeout(20), CommandProcess(["sleep", "600"], durations=durations) as process:
        assert await process.stop() == (process.pid,)
        ended = await process.wait()
        assert (ended.exit_code, ended.is_stopped) == (137, True)
    await all_gone(process.pid)  # its terminal is closed, and that (SIGHUP) reaches every user's processes


async def test_pid_of_another_process_is_never_signalled() -> None:
    """A pid that was given to another process meanwhile is known by its start time."""
    other = subprocess.Popen(["sleep", "600"], start_new_session=True)
    leader = subprocess.Popen(["true"], start_new_session=True)
    try:
        tree = ProcessTree()
        tree.started(leader.pid)
        tree._known[other.pid] = _Process(other.pid, "S", 1, 1, 1, started=1)
        assert tree.remaining() == ()
        tree.send(signal.SIGKILL)
        assert tree.find() == ()
        leader.wait()
        assert is_alive(other.pid)
    finally:
        other.kill()
        other.wait()


async def test_other_processes_are_not_found() -> None:
    """Only what the command started is found, not what runs beside it."""
    other = subprocess.Popen(["sleep", "600"])
    try:
        async with CommandProcess(shell("sleep 600 & sleep 600"), durations=SHORT) as process:
            await until(lambda: len(process._tree.find()) == 3)
            assert other.pid not in process._tree.find()
            assert os.getpid() not in process._tree.find()
            await process.stop()
        assert is_alive(other.pid)
    finally:
        other.kill()
        other.wait()


async def test_exit_taken_by_somebody_else() -> None:
    """Where SIGCHLD is ignored nobody can know the exit code: it is 255, and nothing hangs."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        async with asyncio.timeout(20):
            _, ended = await run(["true"])
        assert ended.exit_code == 255
    finally:
        signal.signal(signal.SIGCHLD, before)
