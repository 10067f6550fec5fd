"""Replays the conversations that the documentation prints, and compares what the server says.

In a `transcript` block `>` is the client and `<` the server. `…` stands for any text, `0193…` for
any id, an `offset` for any number; `$NAME` is put in by the test.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from tests.docs.markdown_files import Block
from tests.integration.sockets import Socket


def turns(block: Block, names: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return each message with who sends it, `>` or `<`."""
    text = re.sub(r"\$([A-Z]+)", lambda match: names[match[1]], block.text)
    found = []
    for line in text.splitlines():
        side, _, message = line.partition(" ")
        assert side in "<>", f"{block.place}: {line}"
        found.append((side, message))
    return found


async def replay(block: Block, socket: Socket, names: Mapping[str, str]) -> int:
    """Send the client's messages and compare each answer; return how many answers there were."""
    answers = 0
    for side, message in turns(block, names):
        if side == ">":
            await socket.connection.send(message)
        else:
            answers += 1
            received = await socket.receive()
            difference = unlike(json.loads(message), received)
            assert difference is None, f"{block.place}: {difference}\nprinted  {message}\nreceived {received}"
    return answers


def unlike(printed: Any, received: Any, path: str = "") -> str | None:
    """Say where a received value differs from the printed one; None if it is as printed."""
    if isinstance(printed, str) and "…" in printed:
        pattern = ".+".join(re.escape(part) for part in printed.replace("0193…", "…").split("…"))
        is_like = isinstance(received, str) and re.fullmatch(pattern, received)
        return None if is_like else f"{path}: {received!r}"
    if isinstance(printed, dict) and isinstance(received, dict):
        if len(printed) != len(received):
            return f"{path}: has {sorted(received)}"
        for key, value in printed.items():
            found = [each for each in received if unlike(key, each) is None]
            if not found:
                return f"{path}: {key} is missing"
            if (difference := unlike(value, received[found[0]], f"{path}.{key}")) is not None:
                return difference
        return None
    if isinstance(printed, list) and isinstance(received, list) and len(printed) == len(received):
        pairs = enumerate(zip(printed, received, strict=True))
        return next((each for i, (a, b) in pairs if (each := unlike(a, b, f"{path}[{i}]"))), None)
    if path.endswith(".offset") and isinstance(received, int) and isinstance(printed, int):
        return None
    return None if printed == received and type(printed) is type(received) else f"{path}: {received!r}"
