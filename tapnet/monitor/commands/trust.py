"""What a client that is not trusted may put into a net or card: a list of what is harmless, so that a key that nobody
thought of is refused.

Refused is what runs a program, names a file, socket file, directory or process, or reaches into the host's network
configuration.
"""

from __future__ import annotations

from ...errors import OptionError
from .table import Arguments

_INET = ("type", "host", "port", "to", "numeric", "ipv4", "ipv6", "keep-alive", "mptcp")
_MEMBER = {"id", "name", "vlan", "impair"}
_USER = {
    *("ipv4", "net", "ip", "mask", "host", "dhcpstart", "dns"),
    *("ipv6", "ipv6-net", "ipv6-prefix", "ipv6-prefixlen", "ipv6-host", "ipv6-dns"),
    *("restrict", "hostname", "domainname", "dnssearch", "resolver", "hostloopback"),
    *("lease-time", "lease", "ntp", "route", "dhcp-option", "tftp-server-name", "bootfile"),
    *("hostfwd", "guestfwd", "allow", "deny", "record", "ftp", "mtu", "buffers"),
}
HARMLESS: dict[str, set[str]] = {
    "user": _USER,
    "socket": {"listen", "connect", "mcast", "udp", "localaddr"},
    "stream": {"server", "reconnect", "reconnect-ms", *(f"addr.{key}" for key in _INET)},
    "dgram": {f"{end}.{key}" for end in ("local", "remote") for key in _INET},
    "ws": {"listen", "origin"},
    "hubport": {"hubid", "netdev"},
    "hub": {"switch"},
    "nic": {
        "model",
        "macaddr",
        "mac",
        "netdev",
        "addr",
        "bus",
        "vectors",
        "iobase",
        "irq",
        "rev",
        "tx-delay",
    },
}


def names_more(option: str, value: str) -> bool:
    """Whether the value of ``option`` needs trust. One that cannot be read does not: it will be refused anyhow."""
    from ...options import parse as options  # here: the client of a monitor has no use for it

    try:
        entry = options.parse_option(option, value)
    except OptionError:
        return False
    harmless = HARMLESS.get(entry.kind)
    if harmless is None or not set(entry.given.values) <= harmless | _MEMBER:
        return True
    values = entry.given.values
    return any(forward.protocol == "unix" for forward in values.get("hostfwd", ())) or any(
        forward.target not in ("tcp", "udp") for forward in values.get("guestfwd", ())
    )


def rule_names_file(arguments: Arguments) -> bool:
    """A redirection of a UNIX socket."""
    return str(arguments["rule"]).startswith("unix:")
