"""`windflow watch` against a real server: who sees what, live, each line once, and the exit status."""

import json
import re
import signal
import statistics
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.cli_process import Person, server_on_port
from tests.integration.server_process import PASSWORD, ServerProcess, server_process
from tests.proving import amount, measured
from tests.services import database_name

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(
    module_database: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ServerProcess]:
    async with server_process(tmp_path_factory.mktemp("watch") / "server", module_database) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def people(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Person]:
    """The superuser, an operator and a viewer of the same organization, and an operator of another one."""
    folder = tmp_path_factory.mktemp("people")
    admin = await Person(server.url, folder / "admin").login("admin", PASSWORD)
    assert (await admin.run("org", "add", "other")).status == 0
    found = {"admin": admin}
    for name, more in (
        ("oscar", ("--role", "operator")),
        ("vera", ("--role", "viewer")),
        ("eve", ("--role", "operator", "--org", "other")),
    ):
        added = await admin.run("user", "add", name, *more, "--password-stdin", stdin=f"{PASSWORD}\n")
        assert added.status == 0, added.err
        found[name] = await Person(server.url, folder / name).login(name, PASSWORD)
    return found


def waiting_for(path: Path, then: str) -> tuple[str, ...]:
    source = f"import os, time\nprint('first', flush=True)\nwhile not os.path.exists({str(path)!r}): time.sleep(0.02)\n"
    return ("--", sys.executable, "-c", source + then)


async def test_the_whole_organization_watches_live_and_nobody_else(people: dict[str, Person], tmp_path: Path) -> None:
    """Two other users running `windflow watch` see each line while the command runs, and the exit code;

    a user of another organization sees nothing.
    """
    go = tmp_path / "go"
    async with (
        people["admin"].start("watch") as admin,
        people["vera"].start("watch") as vera,
        people["eve"].start("watch") as eve,
    ):
        for watcher in (admin, vera, eve):
            await watcher.until_err("following all deployments")
        async with people["oscar"].start(
            "deploy",
            "--name",
            "shop",
            *waiting_for(go, "print('##progress 40 Half'); print('last'); raise SystemExit(3)"),
        ) as deploy:
            await deploy.deployment_id()
            for watcher in (admin, vera):
                await watcher.until_out("shop │ first")
            assert not go.exists()
            go.touch()
            assert (await deploy.end()).status == 3
        for watcher in (admin, vera):
            await watcher.until_out("exit status 3")
            assert watcher.out.count("shop │ first") == 1
            assert watcher.out.count("shop │ last") == 1
            assert "40 % Half" in watcher.out
            assert watcher.out.index("first") < watcher.out.index("last") < watcher.out.index("exit status 3")
        # What eve sees of her own comes after what she would have seen of the others.
        assert (await people["eve"].run("deploy", "--name", "own", "--", "echo", "mine")).status == 0
        await eve.until_out("own │ mine")
        assert "shop" not in eve.out
        admin.signal(signal.SIGINT)
        assert (await admin.end()).status == 130


TICKER = """
import sys, time
for n in range(int(sys.argv[1])):
    print("tick", n, "at", time.time(), flush=True)
    time.sleep(0.05)
"""


async def test_each_line_is_seen_while_the_command_runs(
    people: dict[str, Person], module_database: dict[str, str]
) -> None:
    """Two other users see each line within a second of its being printed: all of them, in order; the delay is noted."""
    count = amount(10, 200)
    async with people["admin"].start("watch") as admin, people["vera"].start("watch") as vera:
        for watcher in (admin, vera):
            await watcher.until_err("following all deployments")
        command = ("--", sys.executable, "-c", TICKER, str(count))
        assert (await people["oscar"].run("deploy", "--name", "clock", *command)).status == 0
        delays = []
        for watcher in (admin, vera):
            await watcher.until_out("clock │ ● success")
            ticks = re.findall(r"clock │ (tick (\d+) at (\S+)\n)", watcher.out)
            assert [int(number) for _, number, _ in ticks] == list(range(count))
            delays += [watcher.arrived_at(line) - float(printed) for line, _, printed in ticks]
    name = database_name(module_database)
    half, most = statistics.median(delays), max(delays)
    measured(
        f"From a line being printed to its being shown by two other users' `watch`, {count} lines ({name})",
        f"median {half * 1000:.0f} ms, longest {most * 1000:.0f} ms",
        "1 s",
    )


@pytest.mark.parametrize(("command", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137)])
async def test_the_exit_status_is_the_deployments(people: dict[str, Person], command: str, status: int) -> None:
    """With ID: its log and then its exit status, also when it ended before."""
    done = await people["oscar"].run("deploy", "--json", "--", "sh", "-c", f"echo one; echo two; {command}")
    watched = await people["vera"].run("watch", done.json()["deploymentId"])
    assert watched.out == "one\ntwo\n"
    assert watched.status == done.status == status
    assert ("success" if status == 0 else f"failed (exit status {status})") in watched.err


async def test_watching_from_the_middle_shows_the_whole_log_once(people: dict[str, Person], tmp_path: Path) -> None:
    """Subscribed first, then read: with ID the log is shown from its start, and each line once."""
    go = tmp_path / "go"
    then = "for n in range(500): print('line', n)\nraise SystemExit(2)"
    async with people["oscar"].start("deploy", *waiting_for(go, then)) as deploy:
        deployment_id = await deploy.deployment_id()
        await deploy.until_out("first")
        async with people["vera"].start("watch", deployment_id) as watch:
            await watch.until_out("first")
            go.touch()
            done = await watch.end()
        await deploy.end()
    assert done.out == "first\n" + "".join(f"line {n}\n" for n in range(500))
    assert done.status == 2


async def test_a_cancelled_deployment_ends_its_watch_with_130(people: dict[str, Person], tmp_path: Path) -> None:
    """Cancelled is 130, for the deployer and for who watches."""
    async with people["oscar"].start("deploy", *waiting_for(tmp_path / "never", "")) as deploy:
        deployment_id = await deploy.deployment_id()
        async with people["vera"].start("watch", deployment_id) as watch:
            await watch.until_out("first")
            assert (await people["admin"].run("cancel", deployment_id)).status == 0
            done = await watch.end()
        assert (await deploy.end()).status == 130
    assert done.status == 130
    assert "cancel requested" in done.err
    assert "cancelled" in done.err


async def test_json_is_one_object_per_line(people: dict[str, Person]) -> None:
    """--json: records of lines, statuses and progress, nothing else on stdout."""
    done = await people["oscar"].run("deploy", "--json", "--name", "j", "--", "echo", "hello")
    deployment_id = done.json()["deploymentId"]
    watched = await people["vera"].run("watch", deployment_id, "--json")
    records = [json.loads(line) for line in watched.out.splitlines()]
    assert {record["deploymentId"] for record in records} == {deployment_id}
    assert [(record["line"], record["text"]) for record in records if "text" in record] == [(1, "hello")]
    assert records[-1]["status"] == "success"


async def test_foreign_and_missing_deployments_look_the_same(people: dict[str, Person]) -> None:
    """A deployment of another organization is answered exactly like one that does not exist."""
    done = await people["oscar"].run("deploy", "--json", "--", "true")
    foreign = await people["eve"].run("watch", done.json()["deploymentId"])
    missing = await people["eve"].run("watch", "01930000-0000-7000-8000-000000000000")
    assert foreign.status == missing.status == 1
    assert foreign.err == missing.err
    assert "not found" in missing.err


@pytest.mark.parametrize(("from_line", "first"), [("4", 4), ("-2", 4), ("-50", 1), ("0", 1), ("900", 6)])
async def test_a_log_is_shown_from_a_line(people: dict[str, Person], from_line: str, first: int) -> None:
    """--from-line: begin at this line; -n: the last n. `watch` and `logs --follow` alike, to the end."""
    source = "for n in range(1, 6): print('line', n)"
    done = await people["oscar"].run("deploy", "--json", "--", sys.executable, "-c", source)
    deployment_id, shown = done.json()["deploymentId"], "".join(f"line {n}\n" for n in range(first, 6))
    watched = await people["vera"].run("watch", deployment_id, "--from-line", from_line)
    assert (watched.status, watched.out) == (0, shown)
    followed = await people["vera"].run("logs", deployment_id, "--follow", "--from-line", from_line)
    assert (followed.status, followed.out) == (0, shown)


async def test_logs_follow_prints_what_comes_and_ends_with_the_deployment(
    people: dict[str, Person], tmp_path: Path
) -> None:
    """--follow: the lines so far, then what comes, to the end; --json: as without --follow."""
    go = tmp_path / "go"
    async with people["oscar"].start("deploy", *waiting_for(go, "print('last'); raise SystemExit(4)")) as deploy:
        deployment_id = await deploy.deployment_id()
        async with (
            people["vera"].start("logs", deployment_id, "-f") as plain,
            people["vera"].start("logs", deployment_id, "--follow", "--json") as as_json,
        ):
            await plain.until_out("first")
            await as_json.until_out("first")
            go.touch()
            ends = [await plain.end(), await as_json.end()]
        await deploy.end()
    assert [end.status for end in ends] == [0, 0]
    assert ends[0].out == "first\nlast\n"
    assert "the deployment ended: failed" in ends[0].err
    assert ends[1].out == (await people["vera"].run("logs", deployment_id, "--json")).out


async def test_colours_of_others_stay_out_of_a_pipe(people: dict[str, Person]) -> None:
    """Log text is data: on a pipe no escape sequence of the log gets through."""
    done = await people["oscar"].run("deploy", "--json", "--", "printf", r"\033]0;title\007\033[31mred\033[0m\n")
    watched = await people["vera"].run("watch", done.json()["deploymentId"])
    assert watched.out == "red\n"
    assert (await people["vera"].run("logs", done.json()["deploymentId"])).out == "red\n"


async def test_a_viewer_may_watch_but_not_deploy_or_cancel(people: dict[str, Person], tmp_path: Path) -> None:
    """Exit 3: not allowed; the command is not started."""
    witness = tmp_path / "started"
    done = await people["vera"].run("deploy", "--", "touch", str(witness))
    assert done.status == 3
    assert not witness.exists()
    own = await people["oscar"].run("deploy", "--json", "--", "true")
    assert (await people["vera"].run("cancel", own.json()["deploymentId"])).status == 3


async def test_a_watch_survives_a_restart_and_shows_each_line_once(
    own_database: dict[str, str], tmp_path: Path
) -> None:
    """Reconnect with back-off, and go on at the exact line: none is missing, none is shown twice."""
    go = tmp_path / "go"
    then = "for n in range(100): print('late', n, flush=True)"
    async with server_process(tmp_path / "server", own_database) as first:
        port = int(first.url.rpartition(":")[2])
        admin = await Person(first.url, tmp_path / "admin").login("admin", PASSWORD)
        deploying = admin.start("deploy", "--name", "app", *waiting_for(go, then))
        deploy = await deploying.__aenter__()
        deployment_id = await deploy.deployment_id()
        watching, following = admin.start("watch", deployment_id), admin.start("watch")
        logging = admin.start("logs", deployment_id, "--follow")
        watch, follow = await watching.__aenter__(), await following.__aenter__()
        logs = await logging.__aenter__()
        await watch.until_out("first")
        await logs.until_out("first")
        await follow.until_out("running")
        first.process.kill()
        await first.process.wait()
    await watch.until_err("connection lost")
    await follow.until_err("connection lost")
    async with server_on_port(tmp_path / "server", port, own_database):
        go.touch()
        assert (await deploy.end()).status == 0
        done = await watch.end()
        logged = await logs.end()
        await follow.until_out("late 99")
        await follow.until_out("success")
        assert done.status == 0
        assert logged.status == 0
        assert done.out == logged.out == "first\n" + "".join(f"late {n}\n" for n in range(100))
        assert "missing" not in done.err + logged.err + follow.err
        shown = [line.partition("│ ")[2] for line in follow.out.splitlines() if "late" in line]
        assert shown == [f"late {n}" for n in range(100)]
        for context in (deploying, watching, following, logging):
            await context.__aexit__(None, None, None)
