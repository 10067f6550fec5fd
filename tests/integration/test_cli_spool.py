"""`deploy` and `spool` while the server is away: at the start, in the middle, at the end, all the time."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.cli_process import Person
from tests.integration.server_process import PASSWORD
from tests.integration.spools import (
    Place,
    kept,
    lines_of,
    place_of,
    printed,
    shown,
    waiting_command,
)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    """A place whose server has the default database: what a spool keeps and sends does not depend on it."""
    async with place_of(tmp_path / "server") as made:
        yield made


@pytest.fixture
async def each_place(own_database: dict[str, str], tmp_path: Path) -> AsyncIterator[Place]:
    """A place with each kind of database, for what has to arrive there once and in order."""
    async with place_of(tmp_path / "server", own_database) as made:
        yield made


async def test_a_server_killed_and_started_twice_misses_nothing(each_place: Place, tmp_path: Path) -> None:
    """The server killed and started again twice meanwhile: every line once, in order; exit status the command's."""
    admin = await each_place.admin(tmp_path / "admin")
    gates = [tmp_path / f"gate{number}" for number in range(4)]
    words = ("first", "second", "third", "fourth")
    command = waiting_command(*zip(words, gates, strict=True), then="raise SystemExit(7)")
    await each_place.start()
    async with admin.start("deploy", *command) as run:
        deployment_id = await run.deployment_id()
        await each_place.until_line(deployment_id, 100)
        await each_place.kill()
        gates[0].touch()
        await run.until_out("second 99")
        await run.until_err("does not answer")
        await each_place.start()
        await each_place.until_line(deployment_id, 200)
        gates[1].touch()
        await run.until_out("third 99")
        await each_place.kill()
        gates[2].touch()
        await run.until_out("fourth 99")
        await each_place.start()
        gates[3].touch()
        done = await run.end()
    assert done.status == 7, done.err
    assert await lines_of(admin, deployment_id) == printed(*words)
    found = await shown(admin, deployment_id)
    assert (found["status"], found["exitCode"]) == ("failed", 7)
    assert await kept(admin) == []


async def test_a_server_that_is_away_all_the_time_gets_everything_by_flush(each_place: Place, tmp_path: Path) -> None:
    """The command ends with its own status, the rest is kept and told; `spool flush` delivers everything."""
    admin = await each_place.admin(tmp_path / "admin", {"SECRET": "hunter2hunter2"})
    command = waiting_command(("line", None), then="import os; print('pw', os.environ['SECRET']); raise SystemExit(5)")
    done = await admin.run("deploy", "--name", "web", "--mask", "SECRET", "--deliver-for", "0.2", *command)
    assert done.status == 5
    assert "101 lines and the end (failed) were not delivered: " in done.err
    (item,) = await kept(admin)
    deployment_id = item["deploymentId"]
    assert f"deliver it with: windflow spool flush {deployment_id}" in done.err
    assert (item["name"], item["serverUrl"], item["lines"], item["status"]) == ("web", each_place.url, 101, "failed")
    assert (item["isOwned"], item["isReadable"], item["refusal"]) == (False, True, None)
    assert item["bytes"] > 0
    on_disk = b"".join(path.read_bytes() for path in Path(item["folder"]).iterdir())
    assert b"pw ***" in on_disk
    assert b"hunter2" not in on_disk
    assert b"SystemExit" not in on_disk, "the command line is kept only with --show-command"
    listed = await admin.run("spool", "list")
    assert "web" in listed.out
    assert deployment_id in listed.out

    away = await admin.run("spool", "flush", "--deliver-for", "0.2")
    assert away.status == 4
    assert f"kept; cannot reach {each_place.url}" in away.err
    await each_place.start()
    flushed = await admin.run("spool", "flush")
    assert flushed.status == 0, flushed.err
    assert f"web ({deployment_id}): delivered, 101 lines and its end (failed)." in flushed.out
    assert await lines_of(admin, deployment_id) == [*printed("line"), "pw ***"]
    found = await shown(admin, deployment_id)
    assert (found["status"], found["exitCode"], found["reason"]) == ("failed", 5, "exit status 5")
    assert found["leaseUntil"] is None
    times = [json.loads(line)["t"] for line in (await admin.run("logs", deployment_id, "--json")).out.splitlines()]
    assert times[0] < found["createdAt"], "the time of a line is that of its printing"
    assert await kept(admin) == []
    again = await admin.run("spool", "flush", "--json")
    assert (again.status, again.json()) == (0, {"items": []})


async def test_a_server_that_comes_while_the_command_runs_gets_all_without_asking(place: Place, tmp_path: Path) -> None:
    """A server that is away at the start and comes later: created, running, lines, live; nothing is left."""
    admin = await place.admin(tmp_path / "admin")
    gate = tmp_path / "gate"
    async with admin.start("deploy", *waiting_command(("early", gate), ("late", None))) as run:
        deployment_id = await run.deployment_id()
        await run.until_err("starts anyway")
        await run.until_out("early 99")
        await place.start()
        await place.until_line(deployment_id, 100)
        assert (await shown(admin, deployment_id))["status"] == "running"
        gate.touch()
        done = await run.end()
    assert done.status == 0, done.err
    assert "the server is back" in done.err
    assert await lines_of(admin, deployment_id) == printed("early", "late")
    assert (await shown(admin, deployment_id))["status"] == "success"
    assert await kept(admin) == []


async def test_a_server_that_comes_back_after_the_end_is_waited_for(place: Place, tmp_path: Path) -> None:
    """The server away at the end: what is left is delivered when it is back within --deliver-for; Ctrl-C keeps it."""
    admin = await place.admin(tmp_path / "admin")
    for is_patient in (True, False):
        async with admin.start("deploy", "--deliver-for", "3600", *waiting_command(("line", None))) as run:
            deployment_id = await run.deployment_id()
            await run.until_err("the command has ended")
            assert f"Ctrl-C keeps it for: windflow spool flush {deployment_id}" in run.err
            if is_patient:
                await place.start()
            else:
                run.signal(signal.SIGINT)
            done = await run.end()
        assert done.status == 0, done.err
        if is_patient:
            assert await lines_of(admin, deployment_id) == printed("line")
            assert await kept(admin) == []
            await place.kill()
        else:
            assert "given up with Ctrl-C" in done.err
            assert [item["deploymentId"] for item in await kept(admin)] == [deployment_id]


async def test_a_server_that_takes_connections_and_is_silent_holds_up_nothing(tmp_path: Path) -> None:
    """A server that hangs is like one that is away: the command starts, ends, and is kept."""
    held: list[asyncio.StreamWriter] = []
    listener = await asyncio.start_server(lambda reader, writer: held.append(writer), "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        somebody = Person(f"http://127.0.0.1:{port}", tmp_path / "somebody", {"WINDFLOW_TOKEN": "wf_x"})
        done = await somebody.run("deploy", "--deliver-for", "0.2", *waiting_command(("line", None)))
        for writer in held:
            writer.close()
    assert done.status == 0, done.err
    assert "the server does not answer; the command starts anyway" in done.err
    assert [item["lines"] for item in await kept(somebody)] == [100]


async def test_the_next_deploy_delivers_what_earlier_ones_left(place: Place, tmp_path: Path) -> None:
    """The next `deploy` delivers what is kept, and says so."""
    admin = await place.admin(tmp_path / "admin")
    for name in ("one", "two"):
        left = await admin.run("deploy", "--name", name, "--deliver-for", "0", *waiting_command((name, None)))
        assert left.status == 0
    ids = {item["name"]: item["deploymentId"] for item in await kept(admin)}
    await place.start()
    done = await admin.run("deploy", "--", "true")
    assert done.status == 0
    for name in ("one", "two"):
        assert f"delivered what was kept of {name} ({ids[name]})" in done.err
        assert await lines_of(admin, ids[name]) == printed(name)
        assert (await shown(admin, ids[name]))["status"] == "success"
    assert await kept(admin) == []


async def test_what_a_running_deploy_owns_is_left_to_it(place: Place, tmp_path: Path) -> None:
    """A lock marks a spool that a living `deploy` owns: flush and drop leave it alone."""
    admin = await place.admin(tmp_path / "admin")
    gate = tmp_path / "gate"
    async with admin.start("deploy", *waiting_command(("line", gate))) as run:
        deployment_id = await run.deployment_id()
        await run.until_out("line 99")
        (item,) = await kept(admin)
        assert item["isOwned"] is True
        await place.start()
        all_of_them = await admin.run("spool", "flush", "--json")
        assert all_of_them.status == 0
        assert [each["outcome"] for each in all_of_them.json()["items"]] == ["owned"]
        for act in ("flush", "drop"):
            named = await admin.run("spool", act, deployment_id)
            assert named.status == 1
            assert "still running" in named.err
        again = await admin.run("deploy", "--id", deployment_id, "--", "true")
        assert again.status == 1
        assert "is there already" in again.err
        gate.touch()
        assert (await run.end()).status == 0
    assert await lines_of(admin, deployment_id) == printed("line")


async def test_nobody_logged_in_keeps_the_spool(place: Place, tmp_path: Path) -> None:
    """Not logged in: the spool is kept, and how to go on is said (exit 3)."""
    nobody = Person(place.url, tmp_path / "nobody")
    left = await nobody.run("deploy", "--deliver-for", "0", *waiting_command(("line", None)))
    assert left.status == 0
    await place.start()
    refused = await nobody.run("spool", "flush")
    assert refused.status == 3
    assert f"log in with: windflow login {place.url}" in refused.err
    (item,) = await kept(nobody)
    assert item["refusal"] is None
    await nobody.login("admin", PASSWORD)
    assert (await nobody.run("spool", "flush")).status == 0
    assert await lines_of(nobody, item["deploymentId"]) == printed("line")


async def test_a_session_that_ended_while_the_server_was_away(place: Place, tmp_path: Path) -> None:
    """A login that ended meanwhile keeps the spool; who logs in again, also while the command runs, gets the rest."""
    admin = await place.admin(tmp_path / "admin")
    other = Person(place.url, tmp_path / "other")
    await place.start()
    await other.login("admin", PASSWORD)
    gate = tmp_path / "gate"
    async with admin.start("deploy", *waiting_command(("early", gate), ("late", None))) as run:
        deployment_id = await run.deployment_id()
        await place.until_line(deployment_id, 100)
        assert (await other.run("logout", "--all")).status == 0
        await run.until_err("not reported: ")
        assert "log in with" in run.err
        await admin.login("admin", PASSWORD)
        await run.until_err("is back")
        gate.touch()
        assert (await run.end()).status == 0
    assert await lines_of(admin, deployment_id) == printed("early", "late")


async def test_what_a_server_refuses_for_good_is_kept_until_it_is_dropped(place: Place, tmp_path: Path) -> None:
    """A server that refuses for good: it is kept, the reason is named, others are delivered; `spool drop` ends it."""
    admin = await place.admin(tmp_path / "admin")
    await place.start()
    taken = (await admin.run("deploy", "--json", "--name", "other", "--", "true")).json()["deploymentId"]
    await place.kill()
    clash = await admin.run("deploy", "--id", taken, "--name", "clash", "--deliver-for", "0", "--", "echo", "x")
    fine = await admin.run("deploy", "--name", "fine", "--deliver-for", "0", "--", "echo", "y")
    assert (clash.status, fine.status) == (0, 0)
    await place.start()
    flushed = await admin.run("spool", "flush")
    assert flushed.status == 1
    assert f"clash ({taken}): kept; deploymentId: this id belongs to another deployment" in flushed.err
    assert "fine (" in flushed.out
    (item,) = await kept(admin)
    assert (item["deploymentId"], "belongs to another" in item["refusal"]) == (taken, True)
    silent = await admin.run("deploy", "--", "true")
    assert "clash" not in silent.err, "the next deploy does not ask again what was refused for good"
    assert (await admin.run("spool", "drop", taken)).status == 0
    assert await kept(admin) == []
    missing = await admin.run("spool", "drop", taken)
    assert (missing.status, "nothing is kept of" in missing.err) == (1, True)


async def test_a_token_is_shown_to_no_other_server(place: Place, tmp_path: Path) -> None:
    """WINDFLOW_TOKEN belongs to the chosen server; what is kept for another one is not delivered with it."""
    admin = await place.admin(tmp_path / "admin")
    assert (await admin.run("deploy", "--deliver-for", "0", "--", "true")).status == 0
    await place.start()
    elsewhere = {"WINDFLOW_TOKEN": "wf_foreign", "WINDFLOW_SERVER_URL": "http://127.0.0.1:9"}
    ci = Person(
        place.url, tmp_path / "ci", {"WINDFLOW_SPOOL_DIR": admin.environment["WINDFLOW_SPOOL_DIR"], **elsewhere}
    )
    refused = await ci.run("spool", "flush")
    assert refused.status == 3
    assert "you are not logged in" in refused.err
    only = await admin.run("spool", "flush", "--server", "http://127.0.0.1:9")
    assert (only.status, only.out) == (0, "Nothing is kept.\n")
    assert (await admin.run("spool", "flush")).status == 0


async def test_without_a_folder_to_write_deploy_goes_on_without_a_spool(place: Place, tmp_path: Path) -> None:
    """A machine that keeps nothing still deploys, and is told what that costs."""
    admin = await place.admin(tmp_path / "admin")
    (tmp_path / "file").touch()
    admin.environment["WINDFLOW_SPOOL_DIR"] = str(tmp_path / "file" / "spool")
    unreachable = await admin.run("deploy", "--", "touch", str(tmp_path / "started"))
    assert unreachable.status == 4
    assert not os.path.exists(tmp_path / "started")
    await place.start()
    done = await admin.run("deploy", "--", "echo", "x")
    assert done.status == 0
    assert "no spool" in done.err


@pytest.mark.parametrize(("name", "value"), [("WINDFLOW_SPOOL_BYTES", "1000"), ("WINDFLOW_SPOOL_BYTES", "1 GB"),
                                             ("WINDFLOW_RUNNER_HEARTBEAT_SECONDS", "nan")])  # fmt: skip
async def test_a_setting_out_of_range_is_named(tmp_path: Path, name: str, value: str) -> None:
    """Errors name field and rule (exit 2)."""
    person = Person("http://127.0.0.1:9", tmp_path, {name: value})
    done = await person.run("deploy", "--", "true")
    assert done.status == 2
    told = " ".join(done.err.replace("│", " ").split())
    assert f"{name}: {value!r} is not" in told
    assert "of at least" in told
