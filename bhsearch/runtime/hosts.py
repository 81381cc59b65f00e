"""Names and addresses of machines."""

from __future__ import annotations

from ipaddress import ip_address

_LOCAL_NAMES = ("localhost", "localhost.localdomain", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback")


def is_loopback(host: str) -> bool:
    """Return whether a host name or an IP address means, on each machine, that machine itself.

    Names are not looked up. The unspecified addresses `0.0.0.0` and `::` count, because Linux connects them to itself.
    """
    name = host.strip("[]").rstrip(".").lower()
    if name in _LOCAL_NAMES or name.endswith(".localhost"):
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified
