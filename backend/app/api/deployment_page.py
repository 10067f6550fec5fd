"""The page behind the link that `windflow deploy` prints, as long as there is no console.

Included by `create_app`. Invariant: it asks the database nothing, so it is the same for a
deployment that exists and one that does not, and tells nobody anything about either.
"""

import html
import re
import shlex

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse

from backend.app.api.dependencies import Public, UseServices
from backend.app.schemas.errors import not_found

router = APIRouter(include_in_schema=False, dependencies=[Depends(Public())])

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Deployment {id} – WindFlow</title>
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 42rem; margin: 3rem auto; padding: 0 1rem; }}
pre {{ background: #eee; color: #111; padding: 1rem; overflow-x: auto; }}
</style>
</head>
<body>
<h1>Deployment {id}</h1>
<p>A deployment is shown to the members of its organization, and there is no web console yet.
Follow this one in a terminal, with your own account:</p>
<pre>windflow login {server}
windflow watch {id}</pre>
<p><code>windflow logs {id}</code> prints its output so far, <code>windflow show {id}</code> its state.
Without the command line, <a href="{docs}">the API's page</a> shows both: Authorize there, then ask for
<code>GET /api/v1/deployments/{id}</code>.</p>
</body>
</html>
"""


@router.get("/deployments/{deployment_id}")
async def deployment_page(deployment_id: str, request: Request, services: UseServices) -> HTMLResponse:
    """Say how to follow a deployment, whether there is one of that id or not."""
    if not _ID.fullmatch(deployment_id):
        raise not_found("page")
    base = str(request.base_url).rstrip("/")
    server = shlex.quote((services.settings.public_url or base).rstrip("/"))
    page = _PAGE.format(id=deployment_id, server=html.escape(server), docs=html.escape(f"{base}/docs"))
    headers = {
        "Content-Security-Policy": _POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    return HTMLResponse(page, headers=headers)
