"""Standard Webhooks: the three headers by which a receiver knows sender, age and identity of a delivery.

Used by the webhook plugin. Pure functions; see https://www.standardwebhooks.com for the receiver's side.
"""

import base64
import binascii
import hashlib
import hmac

PREFIX = "whsec_"
MIN_BYTES, MAX_BYTES = 24, 64
"""Sizes of a secret that the standard allows."""


def secret_key(secret: str) -> bytes:
    """Return the bytes of a secret `whsec_…`; raise ValueError with the rule that it breaks."""
    if not secret.startswith(PREFIX):
        raise ValueError(f"must begin with {PREFIX}")
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        raise ValueError(f"must be base64 after {PREFIX}") from None
    if not MIN_BYTES <= len(key) <= MAX_BYTES:
        raise ValueError(f"must hold {MIN_BYTES} to {MAX_BYTES} bytes")
    return key


def signed_headers(key: bytes, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return `webhook-id`, `webhook-timestamp` (seconds since 1970) and `webhook-signature` (version 1) of a body."""
    signed = b".".join((message_id.encode(), str(timestamp).encode(), body))
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
