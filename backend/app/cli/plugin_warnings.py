"""What would go wrong with a plugin only later: attributes of a connection that are read where there is none.

Asked by `plugin check`. Reads byte code, so that it works without source, and never calls plugin code.
"""

import dis
import inspect
from collections.abc import Iterator
from types import CodeType

_WITHOUT_CONNECTION = ("startup", "shutdown", "handle_event")
"""Hooks that run, always or for some events, on the registered instance."""


def warnings(cls: type) -> Iterator[tuple[int, str]]:
    """Yield line and text for each attribute that only `initialize` assigns and that one of these hooks reads.

    A hook that looks at the context's `websocket` is taken to know whether there is a connection.
    """
    assigned = _attributes(cls, "initialize", "STORE_ATTR")
    for method in ("__init__", "startup"):
        for name in _attributes(cls, method, "STORE_ATTR"):
            assigned.pop(name, None)
    for hook in _WITHOUT_CONNECTION:
        code = _code(cls, hook)
        if code is None or "websocket" in code.co_names:
            continue
        for name, line in _attributes(cls, hook, "LOAD_ATTR").items():
            if name in assigned and not hasattr(cls, name):
                yield (
                    line,
                    f"{hook} reads `{name}`, which is assigned in initialize() alone, and that runs per connection: "
                    "assign it in __init__ or startup()",
                )


def _code(cls: type, method: str) -> CodeType | None:
    function = inspect.unwrap(getattr(cls, method))
    code = getattr(function, "__code__", None)
    return code if isinstance(code, CodeType) else None


def _attributes(cls: type, method: str, operation: str) -> dict[str, int]:
    """Return the attributes of its first argument that a method loads or stores, each with its first line."""
    code = _code(cls, method)
    if code is None or not code.co_varnames:
        return {}
    found: dict[str, int] = {}
    line, previous = code.co_firstlineno, None
    for step in dis.get_instructions(code):
        line = step.starts_line or line
        is_own = previous is not None and previous.opname == "LOAD_FAST" and previous.argval == code.co_varnames[0]
        if is_own and step.opname == operation:
            found.setdefault(step.argval, line)
        previous = step
    return found
