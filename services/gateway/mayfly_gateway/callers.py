"""Who calls by HTTP: the address that a limit for each caller goes by.

Behind proxies that address is what the outermost trusted one has seen. Each appends its client to X-Forwarded-For, so
it is counted from the right: what stands further to the left was written by whoever liked.
"""

import ipaddress
from collections.abc import Iterable

from mayfly_gateway.translation import Field

_FORWARDED = b"x-forwarded-for"
NOBODY = "unknown"  # all whose connection has no address share one


def address(peer: tuple[str, int] | None, fields: Iterable[Field], trusted_proxies: int) -> str:
    """``peer``: the connection's other end. A chain that is too short or no address counts for nothing."""
    direct = _parsed(peer[0]) if peer else None
    if trusted_proxies:
        chain = b",".join(value for name, value in fields if name == _FORWARDED).decode("latin-1").split(",")
        seen = chain[-trusted_proxies].strip() if len(chain) >= trusted_proxies else ""
        return _parsed(seen) or direct or NOBODY
    return direct or NOBODY


def _parsed(text: str) -> str | None:
    """In one spelling, without a port: each connection has another."""
    host, bracket, _ = text.removeprefix("[").partition("]") if text.startswith("[") else (text, "", "")
    if not bracket and host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)
