"""What a runner tells the server about one deployment, request by request.

Used by `Reporter` only. Every request names the runner (`X-Windflow-Runner`), which holds the
deployment's lease; each one can be repeated without harm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import uuid_utils

from backend.app.client.api import WindFlowClient, path_segment
from backend.app.client.backoff import RetryPolicy

RUNNER_HEADER = "X-Windflow-Runner"


@dataclass(frozen=True, slots=True)
class LogLine:
    """One finished line: text without its newline, when it was printed (RFC 3339), `out`/`err`, level."""

    text: str
    time: str | None = None
    stream: str | None = None
    level: str | None = None

    def body(self) -> dict[str, str]:
        """Return the line as the API takes it."""
        body = {"text": self.text}
        for name, value in (("t", self.time), ("stream", self.stream), ("level", self.level)):
            if value is not None:
                body[name] = value
        return body


class RunnerApi:
    """The runner's side of one deployment; the id is made here, so that creating it can be repeated."""

    def __init__(
        self,
        client: WindFlowClient,
        deployment_id: str | None = None,
        *,
        runner_id: str | None = None,
        policy: RetryPolicy | None = None,
    ) -> None:
        self._client = client
        self.deployment_id = deployment_id or str(uuid_utils.uuid7())
        self.runner_id = runner_id or str(uuid_utils.uuid7())
        self._path = f"deployments/{path_segment(self.deployment_id)}"
        self._policy = policy

    def creation(self, name: str, target: str | None = None, program: str | None = None) -> dict[str, str]:
        """Return the body that `create` sends."""
        body = {"deploymentId": self.deployment_id, "name": name, "target": target, "program": program}
        return {key: value for key, value in body.items() if value is not None}

    async def create(self, body: Mapping[str, str]) -> dict[str, Any]:
        """Create the deployment; the same id and body again answer the same. Raises ApiError `id_taken`."""
        return await self._send("POST", "deployments", dict(body))

    async def set_status(self, status: str, reason: str | None = None, exit_code: int | None = None) -> dict[str, Any]:
        """Report a status; the one it has already changes nothing. Raises ApiError `invalid_transition`."""
        body = {"status": status, "reason": reason, "exitCode": exit_code}
        return await self._send(
            "PUT", f"{self._path}/status", {key: value for key, value in body.items() if value is not None}
        )

    async def append_lines(self, first_line: int, lines: Sequence[LogLine]) -> dict[str, Any]:
        """Append lines from number `first_line`; known ones are ignored. Raises ApiError `log_gap`."""
        body = {"firstLine": first_line, "lines": [line.body() for line in lines]}
        return await self._send("POST", f"{self._path}/logs", body, is_keyed=False)

    async def set_progress(self, progress: dict[str, Any]) -> dict[str, Any]:
        """Report progress: `{progress, step?, currentStep?, totalSteps?, etaSeconds?}`."""
        return await self._send("PUT", f"{self._path}/progress", progress)

    async def heartbeat(self) -> dict[str, Any]:
        """Renew the lease; the answer says `cancelRequested`."""
        return await self._send("POST", f"{self._path}/heartbeat", {}, is_keyed=False)

    async def show(self) -> dict[str, Any]:
        """Return the deployment as the server sees it."""
        return await self._send("GET", self._path, None)

    async def _send(self, method: str, path: str, body: Any, *, is_keyed: bool = True) -> dict[str, Any]:
        answer = await self._client.request(
            method,
            path,
            body=body,
            headers={RUNNER_HEADER: self.runner_id},
            policy=self._policy,
            is_keyed=is_keyed,
        )
        return answer.body if isinstance(answer.body, dict) else {}
