"""WebhookPlugin: signed HTTP calls for what happens to deployments and notifications (Standard Webhooks).

Registered only if it is configured. One call of the handler is one attempt: a receiver that does not
take an event makes the attempt fail, and the plugin's queue, breaker and cursor do the waiting. So
what is not delivered waits in the event log, also across a restart, and keeps its id.
"""

import asyncio
import random
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

import httpx
import orjson
from pydantic import BaseModel, Field, SecretStr, field_validator, model_validator

from backend.app import metrics
from backend.app.models.columns import new_id, now
from backend.app.schemas.times import wire_time
from backend.app.schemas.websocket_events import WebSocketEventType
from backend.app.websocket.outgoing import AddressRefused, Outgoing
from backend.app.websocket.plugin import PluginContext, WebSocketPlugin
from backend.app.websocket.webhook_signature import secret_key, signed_headers

EVENTS = (
    WebSocketEventType.DEPLOYMENT_CREATED,
    WebSocketEventType.DEPLOYMENT_STATUS_CHANGED,
    WebSocketEventType.DEPLOYMENT_CANCEL_REQUESTED,
    WebSocketEventType.DEPLOYMENT_DELETED,
    WebSocketEventType.NOTIFICATION_SENT,
)
"""What can be delivered: what is rare and kept in the event log. Lines and progress are for subscribers."""
_GONE = 410
_REMEMBERED = 4096
"""Most undelivered events of which it is remembered who has them already."""


class WebhookSettings(BaseModel):
    """What an operator can set: `WINDFLOW_PLUGIN__WEBHOOK__…`."""

    urls: list[str] = Field(min_length=1, max_length=16, description="Receivers: http(s) addresses.")
    secret: SecretStr = Field(description="whsec_ and 24 to 64 bytes in base64.")
    events: list[WebSocketEventType] = Field(list(EVENTS), min_length=1, description="Event types to deliver.")
    allow_networks: list[IPv4Network | IPv6Network] = Field(
        default_factory=list, max_length=64, description="Networks that are not public and may be called all the same."
    )
    timeout_seconds: float = Field(10, gt=0, le=20, description="Longest time of one attempt (seconds).")
    jitter_seconds: float = Field(1, ge=0, le=5, description="A retry waits up to so long more (seconds).")
    give_up_seconds: float = Field(
        3_600, ge=0, le=86_400, description="Age from which an event that was tried is not tried again (seconds)."
    )
    parallel: int = Field(8, ge=1, le=64, description="Most attempts at once.")

    @field_validator("urls", "events", "allow_networks", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        if isinstance(value, str) and not value.lstrip().startswith("["):
            return [part.strip() for part in value.split(",") if part.strip()]
        return value

    @field_validator("secret")
    @classmethod
    def _is_secret(cls, value: SecretStr) -> SecretStr:
        secret_key(value.get_secret_value())
        return value

    @field_validator("events")
    @classmethod
    def _deliverable(cls, value: list[WebSocketEventType]) -> list[WebSocketEventType]:
        if unknown := [name for name in value if name not in EVENTS]:
            raise ValueError(f"{', '.join(unknown)}: only {', '.join(EVENTS)}")
        return value

    @model_validator(mode="after")
    def _reachable(self) -> "WebhookSettings":
        outgoing = Outgoing(self.allow_networks)
        for number, url in enumerate(self.urls, 1):
            try:
                parsed = httpx.URL(url)
            except httpx.InvalidURL:
                raise ValueError(f"urls, number {number}: must be an http or https address") from None
            if parsed.scheme not in ("http", "https") or not parsed.host:
                raise ValueError(f"urls, number {number}: must be an http or https address")
            try:
                address = ip_address(parsed.host)
            except ValueError:
                continue  # A name: it is looked at each time that it is resolved.
            if not outgoing.permits(address):
                raise ValueError(f"urls, number {number}: {address} is not a public address; see allow_networks")
        return self


class DeliveryFailed(Exception):
    """A receiver did not take an event; it is tried again."""


@dataclass(slots=True)
class _Delivery:
    """What is known of an event that not every receiver has."""

    attempts: int = 0
    taken_by: set[str] = field(default_factory=set)


class WebhookPlugin(WebSocketPlugin):
    """Posts events to the configured addresses; a receiver gets each at least once, always with the same id."""

    event_types = EVENTS
    settings_model = WebhookSettings
    timeout_seconds = 30.0
    retries = 100

    def __init__(self) -> None:
        self._outgoing: Outgoing | None = None
        self._turns: asyncio.Semaphore | None = None
        self._deliveries: OrderedDict[str, _Delivery] = OrderedDict()
        self._gone: set[str] = set()

    async def startup(self, context: PluginContext) -> None:
        """Begin anew with the settings of this start."""
        self._outgoing = self._turns = None
        self._deliveries.clear()
        self._gone.clear()

    async def handle_event(self, event_type: str, event_data: dict[str, Any], context: PluginContext) -> None:
        """Make one attempt for each receiver that does not have the event; raise DeliveryFailed if one refuses it."""
        settings = context.settings
        if not isinstance(settings, WebhookSettings) or event_type not in settings.events:
            return
        self._outgoing = self._outgoing or Outgoing(settings.allow_networks)
        self._turns = self._turns or asyncio.Semaphore(settings.parallel)
        event_id = context.event.id if context.event else new_id()
        delivery = self._deliveries.setdefault(event_id, _Delivery())
        while len(self._deliveries) > _REMEMBERED:
            self._deliveries.popitem(last=False)
        if delivery.attempts:
            await asyncio.sleep(random.uniform(0, settings.jitter_seconds))
        delivery.attempts += 1
        body = _body(event_id, event_type, event_data, context)
        urls = [url for url in dict.fromkeys(settings.urls) if url not in delivery.taken_by and url not in self._gone]
        async with self._turns:
            failures = await asyncio.gather(*(self._attempt(settings, url, event_id, body, context) for url in urls))
        delivery.taken_by.update(url for url, failure in zip(urls, failures, strict=True) if failure is None)
        failed = [failure for failure in failures if failure is not None]
        is_last = delivery.attempts > self.retries or self._is_too_old(settings, context)
        if failed and not is_last:
            raise DeliveryFailed(f"event {event_id}, attempt {delivery.attempts}: {'; '.join(failed)}")
        self._deliveries.pop(event_id, None)
        if failed:
            metrics.WEBHOOK_DELIVERIES.labels("given_up").inc(len(failed))
            context.logger.error("webhook: event %s is given up: %s", event_id, "; ".join(failed))

    async def _attempt(
        self, settings: WebhookSettings, url: str, event_id: str, body: bytes, context: PluginContext
    ) -> str | None:
        """Deliver to one receiver; return why it failed, None if it has the event or wants no more."""
        assert self._outgoing is not None
        key = secret_key(settings.secret.get_secret_value())
        headers = signed_headers(key, event_id, int(time.time()), body)
        host = httpx.URL(url).host
        outcome, failure = "failed", None
        try:
            status = await self._outgoing.post(url, body, headers, settings.timeout_seconds)
        except AddressRefused as error:
            outcome, failure = "refused", str(error)
        except TimeoutError:
            failure = f"{host}: no answer within {settings.timeout_seconds:g} s"
        except (OSError, httpx.TransportError) as error:
            failure = f"{host}: {type(error).__name__}: {error}"
        else:
            if 200 <= status < 300:
                outcome = "delivered"
            elif status == _GONE:
                outcome = "gone"
                self._gone.add(url)
                context.logger.error("webhook: %s answers 410 Gone: nothing is sent there until the next start", host)
            else:
                failure = f"{host}: status {status}"
        metrics.WEBHOOK_DELIVERIES.labels(outcome).inc()
        return failure

    @staticmethod
    def _is_too_old(settings: WebhookSettings, context: PluginContext) -> bool:
        created_at = context.event.created_at if context.event else None
        return created_at is not None and (now() - created_at).total_seconds() > settings.give_up_seconds


def _body(event_id: str, event_type: str, event_data: dict[str, Any], context: PluginContext) -> bytes:
    """Return the event with its envelope: the same bytes with each attempt."""
    event = context.event
    organization_id = context.organization_id or getattr(context.user, "organization_id", None)
    created_at = event.created_at if event and event.created_at else now()
    envelope = {
        "id": event_id,
        "type": str(event_type),
        "timestamp": wire_time(created_at),
        "organizationId": organization_id,
        "subject": event.subject if event else None,
        "userId": event.user_id if event else None,
        "data": event_data,
    }
    return orjson.dumps(envelope)
