"""The REST page of the reference: permissions, routes, bodies and answers, from FastAPI's own document.

Called by `reference.py`. Invariant: a route that declares neither a permission nor that it is
public is an error, not an empty cell.
"""

import re
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from backend.app.api.dependencies import Allowed, Public
from backend.app.auth.permissions import LEAST_ROLE, Permission
from backend.app.config import Settings
from backend.app.main import API, create_app
from backend.app.schemas.errors import ErrorCode
from scripts.reference_markdown import Json, code, field_table, table, words

COMMON_ERRORS = (
    ErrorCode.NOT_AUTHENTICATED,
    ErrorCode.TOKEN_EXPIRED,
    ErrorCode.FORBIDDEN,
    ErrorCode.INVALID_JSON,
    ErrorCode.INVALID_PAYLOAD,
    ErrorCode.MESSAGE_TOO_LARGE,
    ErrorCode.INTERNAL,
    ErrorCode.STORAGE_UNAVAILABLE,
)
"""Told once on the REST page instead of with every route."""


def _app() -> FastAPI:
    """Return the application with the defaults of the code, whatever this machine's settings are."""
    return create_app(Settings.model_construct())


def routes() -> Iterator[tuple[str, str, Any, Permission | None]]:
    """Yield every HTTP route: method, path, FastAPI's route, and the permission it needs (None: public)."""
    for context in iter_route_contexts(_app().routes):
        if not context.methods or not hasattr(context, "dependant"):
            continue
        found = [call for call in _calls(context.dependant) if isinstance(call, (Allowed, Public))]
        if not found:
            raise ValueError(f"the route {context.path} declares neither Allowed nor Public")
        permission = found[0].permission if isinstance(found[0], Allowed) else None
        for method in sorted(context.methods):
            yield method, str(context.path), context, permission


def _calls(dependant: Any) -> Iterator[Any]:
    for each in dependant.dependencies:
        yield each.call
        yield from _calls(each)


def _who(permission: Permission | None) -> str:
    if permission is None:
        return "anybody"
    role = LEAST_ROLE[permission]
    return "superuser" if role is None else role.value


def rest_page() -> str:
    """Return the permissions, every route, and every body and answer."""
    document = _app().openapi()
    models: Json = _named(document["components"]["schemas"])
    overview, details = [], []
    for method, path, route, permission in routes():
        operation = document["paths"].get(path, {}).get(method.lower())
        text = " ".join((operation or {"description": route.endpoint.__doc__})["description"].split())
        overview.append((f"{method} {code(path)}", _who(permission), text.partition(". ")[0].rstrip(".")))
        if operation is not None:
            details.append(_route(method, path, permission, operation, text, models))
    granted = [(code(each.value), _who(each)) for each in Permission]
    common = ", ".join(code(each.value) for each in COMMON_ERRORS)
    hidden = ("HTTPValidationError", "ValidationError", "Role")
    shown = sorted(name for name in models if name not in hidden and "$ref" not in models[name])
    fields = "".join(f"### {name}\n\n{models[name].get('description', '')}\n\n{field_table(models[name], models)}"
                     for name in shown)  # fmt: skip
    return (
        "# REST\n\nThe conventions (authentication, ids, times, lists, errors, idempotency) stand in "
        f"[protocol.md](../protocol.md#rest). Every route may answer {common}; further codes are listed with it. "
        f"The WebSocket is at `{API}/ws`: [protocol.md](../protocol.md). A server shows the same at `/docs` and "
        "`/openapi.json`.\n\n## Permissions\n\nA role has its own permissions and those of the roles before it: "
        "viewer, operator, admin. Superusers have all.\n\n"
        + table(("Permission", "Least role"), granted)
        + "## Routes\n\n" + table(("Route", "Least role", ""), overview)
        + "".join(details) + "## Bodies and answers\n\n" + fields
    )  # fmt: skip


def _named(schemas: Json) -> dict[str, Any]:
    """Return the models, with FastAPI's own name for a form made readable."""
    renamed = {name: f"{name.split('_')[1].title()}Form" for name in schemas if name.startswith("Body_")}
    return {renamed.get(name, name): schema for name, schema in schemas.items()} | {
        name: {"$ref": f"#/{new}"} for name, new in renamed.items()
    }


def _route(method: str, path: str, permission: Permission | None, operation: Json, text: str, models: Json) -> str:
    needs = "No credentials needed." if permission is None else f"Needs {code(permission.value)} ({_who(permission)})."
    lines = [f"### {method} {path}\n\n{text}\n\n{needs}"]
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        form = " (a form, not JSON)" if "json" not in kind else ""
        lines.append(f"Body{form}: {words(content['schema'], models).removesuffix(' or null')}.")
    codes = []
    answers = operation["responses"]
    for status, response in answers.items():
        if int(status) < 400 and "501" not in answers:
            lines.append(f"Answer: {status} {_content(response.get('content', {}), models)}".rstrip() + ".")
        elif "description" in response:
            codes += [each for each in ErrorCode if re.search(rf"\b{each.value}\b", response["description"])]
    further = ", ".join(code(each.value) for each in dict.fromkeys(codes) if each not in COMMON_ERRORS)
    if further:
        lines.append(f"Also: {further}.")
    query = [
        (code(each["name"]), words(each["schema"], models).removesuffix(" or null"), each.get("description", ""))
        for each in operation.get("parameters", ())
        if each["in"] == "query"
    ]
    return " ".join(lines[:1]) + " " + " ".join(lines[1:]) + "\n\n" + (
        table(("Query", "Value", ""), query) if query else ""
    )  # fmt: skip


def _content(content: Json, models: Json) -> str:
    schema = content.get("application/json", {}).get("schema", {})
    kinds = [words(schema, models)] if "$ref" in schema else []
    return " or ".join(kinds + ["text"] * ("text/plain" in content))
