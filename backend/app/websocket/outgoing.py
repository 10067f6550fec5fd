"""HTTP requests to addresses that somebody configured: never into a network that was not meant.

Used by the webhook plugin. Invariant: a connection is made only to an address that was checked,
the very one that the name resolved to; redirects are not followed, proxies of the environment not used.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Mapping, Sequence

import httpx

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_MAX_ADDRESSES = 4
"""Most addresses of one name that are tried."""


class AddressRefused(OSError):
    """A name resolves to no address that may be connected to."""


class Outgoing:
    """Makes POST requests to global addresses, and to those in `allowed` networks."""

    def __init__(self, allowed: Sequence[Network] = ()) -> None:
        self._allowed = tuple(allowed)
        self._tls: ssl.SSLContext | None = None

    def permits(self, address: Address) -> bool:
        """Tell whether this address may be connected to."""
        return any(address in network for network in self._allowed) or _is_global(address)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], timeout_seconds: float) -> int:
        """Send a JSON body and return the status of the answer, whose body is not read.

        Raises AddressRefused, TimeoutError after `timeout_seconds` in all, OSError for a name that
        cannot be resolved and httpx.TransportError for a failed connection.
        """
        async with asyncio.timeout(timeout_seconds):
            if self._tls is None:
                # Reading the certificates takes tens of milliseconds: not on the event loop.
                self._tls = await asyncio.to_thread(httpx.create_ssl_context)
            target = httpx.URL(url)
            addresses = await self._addresses(target)
            async with httpx.AsyncClient(
                verify=self._tls, trust_env=False, follow_redirects=False, timeout=timeout_seconds
            ) as client:
                for address in addresses[:-1]:
                    try:
                        return await _post(client, target, address, body, headers)
                    except httpx.ConnectError:
                        continue  # The next address of the same name; the last one's failure is raised.
                return await _post(client, target, addresses[-1], body, headers)

    async def _addresses(self, target: httpx.URL) -> list[Address]:
        """Resolve the host once; return what of it may be connected to."""
        port = target.port or (443 if target.scheme == "https" else 80)
        found = await asyncio.get_running_loop().getaddrinfo(target.host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found))
        permitted = [address for address in addresses if self.permits(address)]
        if not permitted:
            shown = ", ".join(str(address) for address in addresses[:_MAX_ADDRESSES])
            raise AddressRefused(f"{target.host} resolves to {shown}: not a public address, and not in allow_networks")
        return permitted[:_MAX_ADDRESSES]


async def _post(
    client: httpx.AsyncClient, target: httpx.URL, address: Address, body: bytes, headers: Mapping[str, str]
) -> int:
    """Post to one address; name and certificate are those of the URL."""
    request = client.build_request(
        "POST",
        target.copy_with(host=str(address)),
        content=body,
        headers={**headers, "host": target.netloc.decode("ascii"), "content-type": "application/json"},
        extensions={"sni_hostname": target.raw_host.decode("ascii")},
    )
    response = await client.send(request, stream=True)
    try:
        return response.status_code
    finally:
        await response.aclose()


def _is_global(address: Address) -> bool:
    """Tell whether an address is public, also the IPv4 address inside one that only carries it through IPv6."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return _is_global(inner)
    return address.is_global and not address.is_multicast
