"""The API reference at /docs: Swagger UI from this server, so that it works where no other host is reached.

Included by `create_app` in place of FastAPI's own page, which loads its scripts from elsewhere.
Invariant: the page may load from and talk to its own origin only; its policy makes browsers refuse the rest.
"""

import html
from importlib import resources
from pathlib import Path

import orjson
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, Response

from backend.app.api.dependencies import Public
from backend.app.schemas.errors import not_found

router = APIRouter(include_in_schema=False, dependencies=[Depends(Public())])

_MEDIA_TYPES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="{root}/docs/favicon-32x32.png">
<link rel="stylesheet" href="{root}/docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"><noscript>This page needs JavaScript; the document itself is
<a href="{root}/openapi.json">openapi.json</a>.</noscript></div>
<script src="{root}/docs/swagger-ui-bundle.js"></script>
<script src="{root}/docs/start.js"></script>
</body>
</html>
"""


@router.get("/docs")
async def page(request: Request) -> HTMLResponse:
    """Show every route, and try them out; Authorize takes user name and password."""
    text = _PAGE.format(title=html.escape(request.app.title), root=html.escape(_root(request)))
    return HTMLResponse(text, headers={"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"})


@router.get("/docs/start.js")
async def start(request: Request) -> Response:
    """Return the script that fills the page; a file of its own, for inline scripts are refused."""
    options = {
        "url": f"{_root(request)}/openapi.json",
        "dom_id": "#swagger-ui",
        "deepLinking": True,
        # By default the document would be sent to a validator elsewhere.
        "validatorUrl": None,
    }
    script = f"window.ui = SwaggerUIBundle({orjson.dumps(options).decode()});\n"
    return Response(script, media_type="text/javascript", headers={"X-Content-Type-Options": "nosniff"})


@router.get("/docs/{name}")
async def asset(name: str) -> FileResponse:
    """Return a file of Swagger UI."""
    if name not in _MEDIA_TYPES:
        raise not_found("page")
    headers = {"Cache-Control": "public, max-age=3600", "X-Content-Type-Options": "nosniff"}
    return FileResponse(asset_path(name), media_type=_MEDIA_TYPES[name], headers=headers)


def asset_path(name: str) -> Path:
    """Return where a file of Swagger UI is installed."""
    return Path(str(resources.files("fastapi_swagger").joinpath("resources", name)))


def install_reference_page(app: FastAPI, root_path: str) -> None:
    """Add the page, and make Authorize find the login below the path that a proxy serves the application under."""
    app.include_router(router)
    describe = app.openapi

    def openapi() -> dict[str, object]:
        document = describe()
        for scheme in document.get("components", {}).get("securitySchemes", {}).values():
            flow = scheme.get("flows", {}).get("password")
            # The document is made once and kept.
            if flow is not None and root_path and not flow["tokenUrl"].startswith(f"{root_path}/"):
                flow["tokenUrl"] = root_path + flow["tokenUrl"]
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _root(request: Request) -> str:
    return str(request.scope.get("root_path", "")).rstrip("/")
