"""Where the server's time goes: py-spy on the running process, and its samples as a table of functions.

Used when a figure falls short, or when asked for. Where py-spy is missing or not permitted, the page says so.
Shares are of the main thread, which runs the event loop: what other threads use is read from the system, because a
waiting thread looks busy to py-spy.
"""

import contextlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

SAMPLES_PER_SECOND = 200
MOST_FUNCTIONS = 20
LEAST_SHARE = 0.005
END_SECONDS = 30.0

_MAIN = "MainThread"
_WRAPPERS = "backend/app/cli/"
"""What stands around everything and does nothing: left out."""
_FRAME = re.compile(r"^(?P<function>.+) \((?P<place>[^()]*)\)$")


@dataclass(frozen=True, slots=True)
class Function:
    """A function's share of the samples: at the top of the stack, and anywhere in it."""

    name: str
    own: float
    total: float


def py_spy() -> str | None:
    """Return the path of py-spy: beside this interpreter, or on the path."""
    beside = Path(sysconfig.get_path("scripts")) / "py-spy"
    return str(beside) if beside.exists() else shutil.which("py-spy")


def profile(pid: int, seconds: float, work: Callable[[], object]) -> str:
    """Return a table of what a process does while `work` runs, as Markdown; or why there is none."""
    found = py_spy()
    if found is None:
        return "No profile: py-spy is not installed (`requirements/bench.txt` has it)."
    with tempfile.TemporaryDirectory(prefix="windflow-profile-") as folder:
        output = Path(folder) / "stacks.txt"
        command = [found, "record", "--native", "--threads", "--format", "raw", "--rate", str(SAMPLES_PER_SECOND)]
        command += ["--duration", str(max(1, round(seconds))), "--output", str(output), "--pid", str(pid)]
        before = _ticks(pid)
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as recorder:
            try:
                work()
                after = _ticks(pid)
                _, errors = recorder.communicate(timeout=seconds + END_SECONDS)
            except subprocess.TimeoutExpired:
                recorder.kill()
                return "No profile: py-spy did not end."
            except BaseException:
                recorder.kill()
                raise
        if not output.exists():
            return f"No profile: {errors.strip().splitlines()[-1] if errors.strip() else 'py-spy took no samples'}."
        functions = functions_of(output.read_text(encoding="utf-8").splitlines())
    used = {thread: ticks - before.get(thread, 0) for thread, ticks in after.items()}
    others = 1 - used[pid] / max(1, sum(used.values()))
    return f"Other threads than the main one used {others:.0%} of the CPU time.\n\n{table(functions)}"


def _ticks(pid: int) -> dict[int, int]:
    """Return the CPU time of each thread, in the system's ticks; the main thread's id is the process's."""
    ticks = {}
    for path in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            fields = (path / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            ticks[int(path.name)] = int(fields[11]) + int(fields[12])
    return ticks


def functions_of(stacks: Iterable[str]) -> list[Function]:
    """Return the functions in the main thread's collapsed stacks (`thread;outer;inner 12`), busiest first."""
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    samples = 0
    for line in stacks:
        stack, _, count = line.rpartition(" ")
        thread, *frames = stack.split(";")
        if not count.isdigit() or not frames or _MAIN not in thread:
            continue
        names = [_name(frame) for frame in frames]
        samples += int(count)
        own[names[-1]] += int(count)
        for name in set(names):
            total[name] += int(count)
    return [Function(name, own[name] / samples, total[name] / samples) for name in sorted(total, key=lambda n: -own[n])]


def _name(frame: str) -> str:
    """Return `function (file)` without line and folder: that is what is counted together."""
    match = _FRAME.match(frame)
    if match is None:
        return frame
    place = match["place"].rpartition(":")[0] or match["place"]
    for part in ("backend/app/", "site-packages/"):
        if part in place:
            place = place[place.rindex(part) :].removeprefix("site-packages/")
            break
    else:
        place = place.rpartition("/")[2] if place.startswith(sys.base_prefix) else place
    return f"{match['function']} ({place})"


def table(functions: list[Function]) -> str:
    """Return the functions with the most time of their own, then those of ours with the most in all, as Markdown."""
    told = [f for f in functions if f.total >= LEAST_SHARE and _WRAPPERS not in f.name]
    most = [f for f in told if f.own >= LEAST_SHARE][:MOST_FUNCTIONS]
    ours = [f for f in told if "backend/app/" in f.name and f not in most]
    rows = most + sorted(ours, key=lambda f: -f.total)[:MOST_FUNCTIONS]
    lines = ["| Own | With what it calls | Function |", "| --- | --- | --- |"]
    lines += [f"| {f.own:.1%} | {f.total:.1%} | `{f.name}` |" for f in rows]
    return "\n".join(lines)
