"""The table of faults: what is injected and what must hold, by number. Tests are named after the numbers.

`scripts/abuse.py` writes docs/reference/abuse.md from it and from the tests; a row without a test is
listed as "not yet". Pure data.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FaultRow:
    """One row: `missing` says what of it no test covers yet."""

    injected: str
    holds: str
    missing: str = ""


ROWS: Mapping[str, Mapping[str, FaultRow]] = {
    "Wire": {
        "F01": FaultRow(
            "a subscriber stops reading while 50 MB of log lines flow to 200",
            "all others get every event in order; what is queued for it is never above its budget and one message; "
            "memory does not grow; it catches up without loss if it resumes in time",
        ),
        "F02": FaultRow(
            "a subscriber stops reading for good, with traffic, and idle without answering pings",
            "freed within write stall + 5 s",
        ),
        "F03": FaultRow(
            "half-open peer; reset mid-frame; end without a close frame",
            "one clean-up, a plugin's `cleanup` called once, no ERROR in the log",
        ),
        "F04": FaultRow(
            "oversize frame header; 65 KiB in fragments; 200,000 empty fragments",
            "1009, from the header where possible; no traceback",
        ),
        "F05": FaultRow(
            "invalid UTF-8; unmasked; reserved bits; binary; text split inside a code point",
            "1007, 1002, 1002, 1003; the last is fine",
        ),
        "F06": FaultRow(
            "an upgrade with 130 headers held open, then SIGTERM; half a request line × 500",
            "closed within 10 s; the shutdown completes",
        ),
        "F07": FaultRow(
            "garbage, array, number, empty, truncated JSON, two values, byte order mark",
            "`invalid_json` or `invalid_message`, the connection lives",
        ),
        "F08": FaultRow(
            "depth 100,000; NaN; lone surrogate; NUL; `__proto__`; 5,000-digit integer; duplicate keys",
            "documented error or harmless; never a 1011",
        ),
        "F09": FaultRow(
            "command before auth; unknown type; wrong field types; lists of 10,000",
            "close 1008 or documented error; never silence",
        ),
        "F10": FaultRow(
            "100 messages a second for a minute; 21 malformed in a minute", "`rate_limited`, then 4029; 4501"
        ),
        "F11": FaultRow(
            "10,000 connects at once; connection cap; descriptor limit 256",
            "admitted up to the cap, 4029 beyond (4504 for one user's); health answers within 1 s",
        ),
        "F12": FaultRow(
            "SIGTERM with 500 clients, one stuck; a second SIGTERM",
            "readiness 503, 1012 in jittered batches, exit 0 within 30 s; the second exits at once",
        ),
    },
    "Auth": {
        "F20": FaultRow(
            "silent socket; 2,000 unauthenticated sockets from one address",
            "closed at 10 s; the caps hold; others connect",
        ),
        "F21": FaultRow(
            "wrong, missing and `null` Origin; token in the address", "refused; the address redacted in every log"
        ),
        "F22": FaultRow(
            "`alg: none`; key confusion; wrong `aud`, `iss`, `typ`; expired; not yet valid; 100 KB token; garbage",
            "the same answer; exactly one password or signature check on every path",
        ),
        "F23": FaultRow(
            "token expires with and without refresh; refresh with another user's token", "stays; 4009; refused"
        ),
        "F24": FaultRow(
            "user deactivated, deleted, demoted, moved, password changed, logged out elsewhere, disconnected",
            "holds within 2 s; queued events of lost rights are not sent",
        ),
        "F25": FaultRow("refresh token used twice: at once, after 11 s", "one family lives; family ended"),
        "F26": FaultRow("one-time ticket replayed, late, other origin, raced by 20", "exactly one success"),
        "F27": FaultRow(
            "50 wrong passwords for one account from many addresses; for many accounts from one",
            "back-off both ways; the owner can still get in",
        ),
    },
    "Tenant": {
        "F30": FaultRow(
            "another organization's deployment by id, wildcard, encoded name",
            'the same answer as "not found", audited',
        ),
        "F31": FaultRow("resume with another organization's position", "`position_lost`, nothing foreign"),
        "F32": FaultRow("list, get, change, subscribe, replay and export of one forbidden object", "404 everywhere"),
        "F33": FaultRow("one organization floods", "429 above its rate; the control connection of another holds"),
        "F34": FaultRow("random organizations, users, roles, subscriptions, moves", "nothing crosses"),
    },
    "Plugins": {
        "F40": FaultRow(
            "every failure in every hook, and in tasks that plugins create",
            "contained (a blocked loop delays others by at most the block)",
        ),
        "F41": FaultRow("100 connects and disconnects with a plugin that makes periodic tasks", "0 tasks left"),
        "F42": FaultRow(
            "circular broadcasts; registered twice; registered during dispatch; import error; two with one name",
            "as the plugin guide says",
        ),
        "F43": FaultRow(
            "reload under load, twenty times, three of them broken",
            "0 sockets closed, 0 events lost or handled by both",
        ),
    },
    "Delivery": {
        "F50": FaultRow(
            "`kill -9` between commit and publish; before the plugin cursor is written; during a replay; at random",
            "delivered and dispatched after restart, same event id; no gap, no duplicate, in order",
        ),
        "F51": FaultRow("publisher killed before the answer, retried with its key", "once"),
        "F52": FaultRow(
            "two transactions committing in the reverse order of their start, two nodes", "no reader skips one"
        ),
        "F53": FaultRow(
            "database down at boot, mid-run, slow, pool exhausted, SQLite locked 30 s; 200 idle sockets, pool of 5",
            "sockets stay; liveness 200, readiness 503; clear errors; recovers by itself; 0 connections held",
        ),
        "F54": FaultRow(
            "Redis down at boot, mid-run, flapping, FLUSHALL, client killed by output buffer",
            "events keep flowing from the log; latency rises, nothing durable is lost",
        ),
        "F55": FaultRow(
            "position in the future, expired, other epoch, unknown stream; 100,000 missed events",
            "`position_lost`, or all of them in pages; never a partial answer",
        ),
        "F56": FaultRow(
            "clock ± 1 h; process stopped for 60 s",
            "monotonic timers; leases and tokens behave; resume without loss",
        ),
        "F57": FaultRow("restart with 2,000 clients", "all back within 30 s, nothing lost"),
        "F58": FaultRow(
            "runner killed; server away while a command runs; spool full; spool file cut in the middle",
            "`runner lost`; every line arrives later, in order, once; a counted marker; whole records survive",
        ),
        "F59": FaultRow("disk full", "clear 503, sockets stay, no half-written event, recovers"),
    },
    "Audit": {
        "F60": FaultRow("trail cannot be written, or hangs", "blocks or degrades as set, never silent"),
        "F61": FaultRow(
            "row edited, deleted, inserted, swapped, tail cut, all rewritten", "verification names the first bad row"
        ),
        "F62": FaultRow("two nodes, 10,000 concurrent appends", "one chain"),
    },
    "Console": {
        "F70": FaultRow("server killed mid-stream", "no gap, no duplicate, no reload"),
        "F71": FaultRow(
            "`<img onerror>`, ANSI, `javascript:` links, bidi controls and 1 MB lines in logs and names",
            "text only; stays responsive",
        ),
    },
    "Contract": {
        "F80": FaultRow("an event changed on one side only", "`make check` fails and names it"),
    },
}
