"""Says why a handler met an AttributeError when the attribute belongs to a connection's copy.

Asked by the manager for failures of a registered instance; reads byte code, so that it works
without source, and never calls plugin code.
"""

import dis
import inspect

from backend.app.websocket.plugin_base import WebSocketPlugin


def assigned_in_initialize(error: BaseException, plugin: WebSocketPlugin) -> str | None:
    """Return a sentence if the missing attribute of the plugin is one that its `initialize` assigns, else None."""
    if not isinstance(error, AttributeError) or error.obj is not plugin or not isinstance(error.name, str):
        return None
    if not any(_assigns(cls, error.name) for cls in type(plugin).__mro__):
        return None
    return (
        f"`{error.name}` is assigned in initialize(), which runs per connection; "
        "this event was not born on one: assign it in __init__ or startup()"
    )


def _assigns(cls: type, attribute: str) -> bool:
    function = vars(cls).get("initialize")
    code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
    if code is None:
        return False
    return any(step.opname == "STORE_ATTR" and step.argval == attribute for step in dis.get_instructions(code))
