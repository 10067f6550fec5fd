"""Running commands: output complete, in order and live; the terminal they see; how they end."""

import asyncio
import inspect
import os
import signal
import time
from pathlib import Path

import pytest

from backend.app.runner.process import CommandNotStartable, CommandProcess, Durations, Exit, Mode, WindowSize
from tests.unit.runner.running import (
    is_alive,
    pids_after,
    python,
    read_until,
    run,
    run_bytes,
    run_lines,
    shell,
    until,
)

MODES: tuple[Mode, ...] = ("pty", "pipe", "split")
each_mode = pytest.mark.parametrize("mode", MODES)


@each_mode
async def test_burst_is_complete_and_in_order(mode: Mode) -> None:
    """5,000 lines in a burst arrive complete, in order, once."""
    source = "import sys; sys.stdout.write(''.join(f'line {n}\\n' for n in range(5000)))"
    assert await run_lines(python(source), mode=mode) == [f"line {n}" for n in range(5000)]


@each_mode
async def test_large_output_is_complete(mode: Mode) -> None:
    """Nothing is lost when a command ends right after printing 10 MB."""
    source = "import sys; [sys.stdout.write('%09d' % n + 'x' * 990 + '\\n') for n in range(10_000)]"
    assert await run_lines(python(source), mode=mode) == ["%09d" % n + "x" * 990 for n in range(10_000)]


@each_mode
async def test_long_lines(mode: Mode) -> None:
    """A line of 900 KiB arrives whole; a line of 2 MiB is cut with its mark."""
    source = "import sys; sys.stdout.write('a' * 921_600 + '\\n' + 'b' * 2_097_152 + '\\n' + 'after')"
    whole, cut, after = await run_lines(python(source), mode=mode)
    assert whole == "a" * 921_600
    assert cut.startswith("b" * 1_048_000)
    assert cut.endswith(" of 2097152 bytes kept]")
    assert after == "after"


@each_mode
async def test_output_like_docker_compose_pull(mode: Mode) -> None:
    """Carriage returns, colours, invalid UTF-8, no final newline: after `\\r` the last state."""
    source = r"""import sys
write = sys.stdout.buffer.write
for n in range(0, 101, 10): write(b"\r\x1b[33mpulling %d%%\x1b[0m" % n)
write(b"\n\x1b[32mok\x1b[0m\r\nbad \xff\xc3 caf\xc3\xa9\nno end")"""
    assert await run_lines(python(source), mode=mode) == [
        "\x1b[33mpulling 100%\x1b[0m",
        "\x1b[32mok\x1b[0m",
        "bad \ufffd\ufffd café",
        "no end",
    ]


@each_mode
@pytest.mark.parametrize(
    ("source", "code", "number"),
    [("true", 0, None), ("false", 1, None), ("exit 42", 42, None)]
    + [(f"kill -{n} $$", 128 + n, n) for n in (signal.SIGTERM, signal.SIGKILL, signal.SIGPIPE, signal.SIGINT)],
)
async def test_exit_code(mode: Mode, source: str, code: int, number: int | None) -> None:
    """Exit status: the command's, 128+n on a signal."""
    _, ended = await run(shell(source), mode=mode)
    assert ended == Exit(code, number, is_stopped=False, is_timed_out=False)


@each_mode
async def test_lines_arrive_as_they_are_printed(mode: Mode, tmp_path: Path) -> None:
    """The first line arrives while the command still runs."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    async with CommandProcess(shell('echo first; read x <"$1"; echo second', str(gate)), mode=mode) as process:
        assert b"second" not in await read_until(process, b"first")
        assert process.is_running
        gate.write_text("go\n")
        await read_until(process, b"second")
        assert (await process.wait()).exit_code == 0
        assert not process.is_running


@pytest.mark.parametrize("mode", ["pty", "pipe"])
async def test_both_streams_in_order(mode: Mode) -> None:
    """On a terminal, and with one pipe, both streams come in the order of printing."""
    source = 'for n in 1 2 3 4 5 6 7 8 9; do echo "out $n"; echo "err $n" >&2; done'
    expected = [f"{stream} {n}" for n in range(1, 10) for stream in ("out", "err")]
    assert await run_lines(shell(source), mode=mode) == expected


async def test_split_streams_are_told_apart() -> None:
    """`--split`: two pipes, each chunk tagged with its stream."""
    chunks, _ = await run(shell("echo one; echo two >&2; echo three"), mode="split")
    assert b"".join(chunk.data for chunk in chunks if chunk.stream == "out") == b"one\nthree\n"
    assert b"".join(chunk.data for chunk in chunks if chunk.stream == "err") == b"two\n"


async def test_command_has_a_terminal_of_its_own() -> None:
    """The command leads a new session whose controlling terminal is the pseudo-terminal."""
    source = """import os, sys
assert os.isatty(1) and os.isatty(2)
assert os.getsid(0) == os.getpgrp() == os.getpid() == os.tcgetpgrp(1)
with open("/dev/tty", "w") as tty: tty.write("to the terminal")"""
    assert await run_bytes(python(source)) == (b"to the terminal", Exit(0, None, False, False))


@pytest.mark.parametrize("mode", ["pipe", "split"])
async def test_command_on_pipes_has_no_terminal(mode: Mode) -> None:
    """`--no-pty`: pipes, and no terminal behind them."""
    output, ended = await run_bytes(shell("test -t 1 || test -t 2 || echo none; : >/dev/tty"), mode=mode)
    assert output.startswith(b"none\n")
    assert ended.exit_code != 0


async def test_window_size() -> None:
    """The terminal has the size that was given, and a new one reaches the command at once (SIGWINCH)."""
    source = """import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])
print("first", *os.get_terminal_size(1), flush=True)
while signal.sigwait([signal.SIGWINCH]): print("now", *os.get_terminal_size(1), flush=True)"""
    async with CommandProcess(python(source), stdin=None, size=WindowSize(rows=33, columns=77)) as process:
        await read_until(process, b"first 77 33")
        process.resize(WindowSize(rows=50, columns=200))
        await read_until(process, b"now 200 50")


def test_window_size_is_checked() -> None:
    """Bad input gets a clear error."""
    with pytest.raises(ValueError, match="1 to 65535 rows and columns, not 0 by 80"):
        WindowSize(rows=0, columns=80)


async def test_environment_of_a_terminal_nobody_sits_at() -> None:
    """Without a terminal of ours: 120 columns by 40 rows, also by environment; a TERM; no pager."""
    environment = {"PATH": os.environ["PATH"], "KEPT": "yes", "TERM": ""}
    source = 'stty size <&1; echo "$COLUMNS $LINES $TERM $PAGER $KEPT"'
    for given, size in ((environment, "40 120"), (environment | {"LINES": "10", "COLUMNS": "90"}, "10 90")):
        rows, columns = size.split()
        process = CommandProcess(shell(source), stdin=None, environment=given)
        async with process:
            output = b"".join([chunk.data async for chunk in process])
        assert output.decode().splitlines() == [size, f"{columns} {rows} xterm-256color cat yes"]


async def test_given_environment_is_left_as_it_is() -> None:
    """What the user chose stays: TERM, PAGER."""
    environment = {"PATH": os.environ["PATH"], "TERM": "dumb", "PAGER": "less"}
    assert await run_lines(shell('echo "$TERM $PAGER"'), environment=environment) == ["dumb less"]


async def test_folder(tmp_path: Path) -> None:
    """`--cwd`: the command starts there; we stay where we are; a relative program is that folder's."""
    before = os.getcwd()
    program = tmp_path / "here"
    program.write_text("#!/bin/sh\npwd; echo $PWD\n")
    program.chmod(0o755)
    assert await run_lines(["./here"], cwd=str(tmp_path)) == [str(tmp_path)] * 2
    assert os.getcwd() == before


async def test_program_is_looked_up_in_the_given_path(tmp_path: Path) -> None:
    """The PATH of the command's environment counts, and an unusable file there does not hide a later one."""
    first, second = tmp_path / "1", tmp_path / "2"
    for folder, mode in ((first, 0o644), (second, 0o755)):
        folder.mkdir()
        (folder / "tool").write_text("#!/bin/sh\necho found\n")
        (folder / "tool").chmod(mode)
    assert await run_lines(["tool"], environment={"PATH": f"{first}:{second}:/usr/bin:/bin"}) == ["found"]
    with pytest.raises(CommandNotStartable, match="tool: not executable") as refused:
        await run(["tool"], environment={"PATH": str(first)})
    assert refused.value.exit_code == 126


@each_mode
@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("windflow-no-such-command", 127, "windflow-no-such-command: command not found"),
        ("", 127, "'': command not found"),
        ("{folder}/missing", 127, "missing: no such file"),
        ("{folder}", 126, "is a folder"),
        ("{folder}/plain", 126, "plain: Permission denied"),
        ("{folder}/plain/below", 126, "Not a directory"),
        ("{folder}/interpreter", 126, "interpreter: the interpreter named in its first line does not exist"),
        ("{folder}/text", 126, "text: neither a program nor a script"),
    ],
)
async def test_command_that_cannot_be_started(mode: Mode, name: str, code: int, message: str, tmp_path: Path) -> None:
    """126/127 not startable, and a message that says why."""
    for file, content, permissions in (
        ("plain", "#!/bin/sh\n", 0o644),
        ("interpreter", "#!/no/such/sh\n", 0o755),
        ("text", "hello\n", 0o755),
    ):
        (tmp_path / file).write_text(content)
        (tmp_path / file).chmod(permissions)
    with pytest.raises(CommandNotStartable, match=message) as refused:
        await run([name.format(folder=tmp_path)], mode=mode)
    assert refused.value.exit_code == code


async def test_folder_that_cannot_be_entered(tmp_path: Path) -> None:
    """A missing --cwd is told as such."""
    with pytest.raises(CommandNotStartable, match=r"gone: cannot be entered: No such file") as refused:
        await run(["true"], cwd=str(tmp_path / "gone"))
    assert refused.value.exit_code == 126


@pytest.mark.parametrize("argv", [[], ["echo", "a\0b"]])
def test_argv_that_no_system_call_takes(argv: list[str]) -> None:
    """Bad input gets a clear error naming the rule."""
    with pytest.raises(ValueError, match="a command needs a program, and none of its arguments may hold a NUL"):
        CommandProcess(argv)


@each_mode
async def test_slow_reader_slows_the_command(mode: Mode) -> None:
    """Nothing is read that nobody asked for: the command waits, memory stays bounded."""
    async with CommandProcess(["yes"], mode=mode, durations=Durations(kill_after_seconds=1)) as process:
        await anext(process)
        looks: list[str] = []

        def is_waiting() -> bool:
            looks.append(Path(f"/proc/{process.pid}/io").read_text().split("\n")[1])
            return len(looks) > 20 and len(set(looks[-20:])) == 1

        await until(is_waiting)
        assert int(looks[-1].split()[1]) < 1_000_000


@each_mode
async def test_what_was_printed_before_the_end_is_never_lost(mode: Mode) -> None:
    """Output still in the kernel when the command ended arrives, however late it is read."""
    size = 6_000 if mode == "pty" else 60_000  # what the kernel takes without a reader
    source = "import os, sys; os.write(1, b'first'); os.write(1, b'x' * int(sys.argv[1]) + b'last')"
    process = CommandProcess(python(source, str(size)), mode=mode, durations=Durations(linger_seconds=0))
    async with process:
        await process.wait()
        output = b"".join([chunk.data async for chunk in process])
    assert output == b"first" + b"x" * size + b"last"


@each_mode
async def test_background_process_does_not_hold_the_end_back(mode: Mode) -> None:
    """A grandchild that keeps the output open delays the end by the linger time only, and is left alone."""
    source = 'trap "" HUP; sleep 600 & echo "pid $!"; echo main'
    process = CommandProcess(shell(source), mode=mode, durations=Durations(linger_seconds=0.1))
    async with asyncio.timeout(20), process:
        (pid,) = await pids_after(process, "pid")
        assert b"".join([chunk.data async for chunk in process]).strip() in (b"main", b"")
    assert is_alive(pid)
    os.kill(pid, signal.SIGKILL)


@each_mode
async def test_background_process_is_heard_within_the_linger_time(mode: Mode, tmp_path: Path) -> None:
    """What a grandchild prints soon after the command's end arrives too; its own end is not waited for in vain."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    argv = shell('trap "" HUP; (read x <"$1"; echo late) & echo main', str(gate))
    durations = Durations(linger_seconds=60)
    async with asyncio.timeout(20), CommandProcess(argv, mode=mode, durations=durations) as process:
        await process.wait()
        await read_until(process, b"main")
        gate.write_text("go\n")
        assert b"".join([chunk.data async for chunk in process]).split() == [b"late"]


@each_mode
async def test_endless_background_output_ends(mode: Mode) -> None:
    """A grandchild that never stops printing does not keep the output from ending."""
    source = 'trap "" HUP; yes & echo "pid $!" >&2'
    durations = Durations(linger_seconds=0.1)
    process = CommandProcess(shell(source), mode=mode, stdin=None, durations=durations)
    async with asyncio.timeout(20), process:
        async for _ in process:
            pass
    # Its output is closed: writing ends it, or tells it so.
    assert (await process.wait()).exit_code == 0


async def test_output_closed_early_is_not_the_end() -> None:
    """A command that closes its output and opens the terminal again is heard again."""
    source = "echo before; exec >/dev/null 2>&1; sleep 0.3; echo after >/dev/tty"
    assert await run_lines(shell(source)) == ["before", "after"]


async def test_one_reader_at_a_time() -> None:
    """Two readers would tear lines apart; the second is refused."""
    async with CommandProcess(["sleep", "600"]) as process:
        first = asyncio.ensure_future(anext(process))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one task at a time"):
            await anext(process)
        first.cancel()


@each_mode
async def test_cancelled_reading_loses_nothing(mode: Mode) -> None:
    """Reading can be given up and taken up again."""
    source = "import os, time\nfor n in range(50): os.write(1, b'%03d' % n); time.sleep(0.002)"
    output = b""
    async with CommandProcess(python(source), mode=mode) as process:
        while True:
            try:
                async with asyncio.timeout(0.001):
                    output += (await anext(process)).data
            except TimeoutError:
                continue
            except StopAsyncIteration:
                break
    assert output == b"".join(b"%03d" % n for n in range(50))


async def test_waiting_may_be_given_up() -> None:
    """Cancelling wait() leaves the command running."""
    async with CommandProcess(["sleep", "600"]) as process:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.wait(), 0.01)
        assert process.is_running


async def test_use_before_the_start_is_refused() -> None:
    """A command runs inside `async with` only."""
    process = CommandProcess(["true"])
    with pytest.raises(RuntimeError, match="not started"):
        await anext(process)
    with pytest.raises(RuntimeError, match="not started"):
        await process.stop()


@each_mode
async def test_no_descriptor_stays_open(mode: Mode, tmp_path: Path) -> None:
    """All descriptors are closed in every path: ended, stopped, left early, not startable."""

    async def all_paths() -> None:
        await run(["echo", "done"], mode=mode)
        async with CommandProcess(["sleep", "600"], mode=mode) as process:
            await process.stop()
        async with CommandProcess(["yes"], mode=mode) as process:
            await anext(process)
        for cwd, program in ((str(tmp_path), "windflow-no-such-command"), ("/no/such/folder", "true")):
            with pytest.raises(CommandNotStartable):
                await run([program], mode=mode, cwd=cwd)

    await all_paths()
    before = os.listdir("/proc/self/fd")
    for _ in range(5):
        await all_paths()
    assert os.listdir("/proc/self/fd") == before


@each_mode
async def test_command_gets_the_descriptors_meant_for_it(mode: Mode) -> None:
    """0, 1 and 2, and what we were given to pass on, like the `<(…)` of a shell; none of those we opened."""
    read_end, write_end = os.pipe()
    os.set_inheritable(read_end, True)
    inheritable = {fd for fd in open_descriptors() if os.get_inheritable(fd)}
    source = f"{inspect.getsource(open_descriptors)}\nprint(*open_descriptors())"
    (line,) = await run_lines(python("import os\n" + source), mode=mode)
    os.close(read_end)
    os.close(write_end)
    assert {int(fd) for fd in line.split()} == {0, 1, 2} | inheritable
    assert read_end in inheritable


def open_descriptors() -> list[int]:
    """The descriptors open in this process."""

    def is_open(fd: int) -> bool:
        try:
            os.fstat(fd)
        except OSError:
            return False
        return True

    return [fd for fd in range(1024) if is_open(fd)]


async def test_many_commands_at_once() -> None:
    """Runs do not disturb each other."""
    started = time.monotonic()
    results = await asyncio.gather(*(run_lines(shell(f"sleep 0.2; echo {n}; exit {n}")) for n in range(10)))
    assert results == [[str(n)] for n in range(10)]
    assert time.monotonic() - started < 20
