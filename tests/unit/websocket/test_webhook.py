"""The webhook plugin alone: signatures, addresses, what counts as delivered."""

import base64
import hashlib
import hmac
import ipaddress
import socket
from typing import Any

import pytest
from pydantic import ValidationError

from backend.app.models.columns import now
from backend.app.websocket.outgoing import AddressRefused, Outgoing
from backend.app.websocket.plugin import EventEnvelope, PluginContext
from backend.app.websocket.plugins.webhook import DeliveryFailed, WebhookPlugin, WebhookSettings
from backend.app.websocket.webhook_signature import secret_key, signed_headers
from tests.plugin_world import make_context
from tests.webhook_receiver import receiver

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]


def given(*urls: str, **more: Any) -> WebhookSettings:
    """Settings that allow this machine."""
    values = {"urls": list(urls), "secret": SECRET, "allow_networks": LOOPBACK, "jitter_seconds": 0, **more}
    return WebhookSettings.model_validate(values)


def context_of(settings: WebhookSettings | None, event_id: str = "event-1", **more: Any) -> PluginContext:
    """The context of an event."""
    event = EventEnvelope(event_id, "DEPLOYMENT_CREATED", "org-1", "d-1", created_at=more.pop("created_at", now()))
    return make_context(event=event, settings=settings, **more)


def test_the_example_of_the_standard_is_signed_as_the_standard_says() -> None:
    """Message, secret and signature are those that the specification's libraries test with."""
    headers = signed_headers(secret_key(SECRET), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.251",
     "255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "2002:7f00:1::",
     "64:ff9b::a00:1"],
)  # fmt: skip
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    """Also when it is written as IPv6, and when it is in no URL but allowed explicitly it is not."""
    found = ipaddress.ip_address(address)
    assert not Outgoing().permits(found)
    assert Outgoing([ipaddress.ip_network(address)]).permits(found)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700:4700::1111"])
def test_a_public_address_is_permitted(address: str) -> None:
    """That is what the plugin is for."""
    assert Outgoing().permits(ipaddress.ip_address(address))


async def test_a_name_that_resolves_to_a_private_address_is_refused_before_anything_is_sent() -> None:
    """`localhost` is a name, and what it resolves to is not public."""
    async with receiver() as there:
        with pytest.raises(AddressRefused, match=r"localhost resolves to .*not a public address"):
            await Outgoing().post(f"http://localhost:{there.port}/", b"{}", {}, 5)
        assert there.received == []


async def test_the_address_that_was_checked_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is resolved once: a second answer, which a rebinding name would give, is never asked for."""
    async with receiver() as there:
        asked: list[Any] = []
        real = socket.getaddrinfo

        def resolve(host: Any, *rest: Any, **more: Any) -> Any:
            name = host.decode() if isinstance(host, bytes) else host
            if name != "hooks.example":
                return real(host, *rest, **more)
            asked.append(name)
            address = "127.0.0.1" if len(asked) == 1 else "10.255.255.1"
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, there.port))]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        assert await Outgoing(LOOPBACK).post(f"http://hooks.example:{there.port}/in", b"{}", {}, 5) == 204
        assert asked == ["hooks.example"]
        assert there.received[0].headers["host"] == f"hooks.example:{there.port}"


async def test_a_delivery_is_signed_and_holds_the_event() -> None:
    """Checked with the HMAC of the standard, over the bytes that came."""
    async with receiver() as there:
        context = context_of(given(f"http://127.0.0.1:{there.port}/hook"), organization_id="org-1")
        await WebhookPlugin().handle_event("DEPLOYMENT_CREATED", {"deploymentId": "d-1"}, context)
        (came,) = there.received
        signed = f"event-1.{came.headers['webhook-timestamp']}.".encode() + came.body
        digest = hmac.new(base64.b64decode(SECRET.removeprefix("whsec_")), signed, hashlib.sha256).digest()
        assert came.headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()
        assert came.headers["webhook-id"] == came.json["id"] == "event-1"
        assert came.path == "/hook"
        assert came.json["data"] == {"deploymentId": "d-1"}
        assert (came.json["type"], came.json["organizationId"], came.json["subject"]) == (
            "DEPLOYMENT_CREATED", "org-1", "d-1",
        )  # fmt: skip


async def test_a_redirect_is_a_failure_and_is_not_followed() -> None:
    """Where it leads, nobody checked."""
    async with receiver() as inside, receiver() as there:
        there.answer = f"307 Temporary Redirect\r\nlocation: http://127.0.0.1:{inside.port}/"
        context = context_of(given(f"http://127.0.0.1:{there.port}/"))
        with pytest.raises(DeliveryFailed, match="status 307"):
            await WebhookPlugin().handle_event("DEPLOYMENT_CREATED", {}, context)
        assert inside.received == []


async def test_a_retry_goes_only_to_who_does_not_have_the_event() -> None:
    """With the same id and the same body."""
    async with receiver() as well, receiver("503 Service Unavailable") as down:
        plugin = WebhookPlugin()
        context = context_of(given(f"http://127.0.0.1:{well.port}/", f"http://127.0.0.1:{down.port}/"))
        with pytest.raises(DeliveryFailed, match=r"attempt 1: 127\.0\.0\.1: status 503"):
            await plugin.handle_event("DEPLOYMENT_CREATED", {"a": 1}, context)
        down.answer = "200 OK"
        await plugin.handle_event("DEPLOYMENT_CREATED", {"a": 1}, context)
        assert len(well.received) == 1
        first, second = down.received
        assert (first.headers["webhook-id"], first.body) == (second.headers["webhook-id"], second.body)


async def test_an_old_event_is_tried_and_then_given_up() -> None:
    """The failure is logged, and the next event has its turn."""
    async with receiver("500 Internal Server Error") as there:
        settings = given(f"http://127.0.0.1:{there.port}/", give_up_seconds=60)
        context = context_of(settings, created_at=now().replace(year=2020))
        await WebhookPlugin().handle_event("DEPLOYMENT_CREATED", {}, context)
        assert len(there.received) == 1
        assert "given up" in context.logger.error.call_args.args[0]  # type: ignore[attr-defined]


async def test_after_410_nothing_more_is_sent() -> None:
    """The receiver asked for that."""
    async with receiver("410 Gone") as there:
        plugin, settings = WebhookPlugin(), given(f"http://127.0.0.1:{there.port}/")
        await plugin.handle_event("DEPLOYMENT_CREATED", {}, context_of(settings, "event-1"))
        await plugin.handle_event("DEPLOYMENT_CREATED", {}, context_of(settings, "event-2"))
        assert len(there.received) == 1


async def test_called_directly_without_settings_it_does_nothing() -> None:
    """As the specification's own test calls a plugin: no start, no database, no manager."""
    await WebhookPlugin().handle_event("DEPLOYMENT_CREATED", {}, make_context())


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"urls": ""}, "urls"),
        ({"urls": "ftp://example.com"}, "must be an http or https address"),
        ({"urls": "http://192.168.0.1/"}, "192.168.0.1 is not a public address"),
        ({"urls": "http://[::1]/"}, "::1 is not a public address"),
        ({"secret": "whsec_AAAA"}, "must hold 24 to 64 bytes"),
        ({"secret": "abc"}, "must begin with whsec_"),
        ({"events": "DEPLOYMENT_LOGS_UPDATE"}, "DEPLOYMENT_LOGS_UPDATE: only"),
        ({"allow_networks": "10.0.0.0/99"}, "allow_networks"),
    ],
)
def test_what_is_wrong_with_a_setting_is_named(changes: dict[str, str], rule: str) -> None:
    """And the secret is not in the text."""
    values = {"urls": "https://example.com/hook", "secret": SECRET, **changes}
    with pytest.raises(ValidationError, match=rule):
        WebhookSettings.model_validate(values)
