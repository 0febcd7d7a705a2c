"""Which addresses of a Dask scheduler can be read, and misused, from other machines."""

from __future__ import annotations

import ipaddress

EXPOSED = (
    "{} is not on the loopback address and not encrypted: whoever reaches such a scheduler runs code there. Use TLS "
    "(tls://, tls_ca_file, tls_cert_file, tls_key_file), or allow_insecure: true in a network that you trust"
)
_ENCRYPTED = ("tls", "wss")


def is_encrypted(address: str) -> bool:
    """Return True if the protocol of an address is encrypted, with certificates on both sides."""
    return address.partition("://")[0] in _ENCRYPTED


def is_exposed(address: str) -> bool:
    """Return True if a scheduler listens in clear on an address that is not the loopback one.

    Whoever reaches such a scheduler runs code there and on all workers, and whoever is on the way reads the rows.
    """
    scheme, separator, rest = address.partition("://")
    scheme, rest = (scheme, rest) if separator else ("tcp", address)
    if scheme == "inproc" or scheme in _ENCRYPTED:
        return False
    host = rest.split("/")[0].rpartition(":")[0].strip("[]")
    try:
        return not ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host != "localhost"
