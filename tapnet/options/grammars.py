"""Values with a grammar of their own: forwarding rules, filters, leases, character devices.

``hostfwd`` and ``redir`` are also what the monitor's hostfwd_add takes. Every function is a converter: text
in, typed value out, ``ValueError`` with the reason otherwise.

    hostfwd    [tcp|udp]:[hostaddr]:port[-port]-[guest]:port[-port]     unix:PATH-[guest]:port
    redir      tcp|udp:port:[guest]:port                                (QEMU before 2.6)
    guestfwd   [tcp|udp]:[addr]:port-cmd:PROGRAM ARGS | -tcp:HOST:PORT | -udp:HOST:PORT | -unix:PATH
               | -file:PATH
    allow/deny [tcp|udp|icmp:]NET[:PORT[-PORT]]
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network

from ..config import (
    Chardev,
    Endpoint,
    GuestForward,
    HostForward,
    Impairment,
    IpAddress,
    Lease,
    Rule,
    UnixPath,
)
from ..errors import OptionError
from ..text import nearest, shown
from . import converters as words
from . import impairments

MAX_PATH = 107  # bytes of a UNIX socket's path


def unix_path(value: str) -> UnixPath:
    """A UNIX socket's path; a leading @ is the abstract name space."""
    if len(words.text(value).encode("utf-8", "surrogateescape")) > MAX_PATH:
        raise ValueError(f"a socket's path has at most {MAX_PATH} bytes")
    if value == "@":
        raise ValueError("an abstract socket needs a name behind @")
    return UnixPath(value[1:], True) if value.startswith("@") else UnixPath(value)


def _port(digits: str, what: str, low: int = 1) -> int:
    try:
        number = words.integer(digits)
    except ValueError:
        number = -1
    if not low <= number <= 65535:
        raise ValueError(f"bad {what} port {shown(digits)} ({low}..65535)")
    return number


def _address(value: str, what: str) -> IpAddress:
    try:
        return words.ip(value, scoped=what == "host")
    except ValueError as error:
        why = f": {error}" if "%" in value else ""
        raise ValueError(f"bad {what} address {shown(value)}{why}") from None


def _head(value: str, ending: str) -> tuple[str, str]:
    """Take ``[v6]`` or plain text up to the next ``ending``: (it, rest after ``ending``)."""
    if value.startswith("["):
        close = value.find("]")
        if close < 0 or not value.startswith(ending, close + 1):
            raise ValueError(f'"[" without "]{ending}"')
        return value[: close + 1], value[close + 1 + len(ending) :]
    head, found, rest = value.partition(ending)
    if not found:
        raise ValueError(f'no "{ending}" after {shown(head)}')
    return head, rest


def guest(value: str) -> IpAddress | bytes | str | None:
    """A guest: address, MAC in brackets or with dashes, DHCP host name, or nothing for the first one."""
    if not value:
        return None
    inner = words.unbracket(value)
    if re.fullmatch(r"[0-9a-fA-F]{1,2}([:-][0-9a-fA-F]{1,2}){5}", inner):
        try:
            return words.mac(inner)
        except ValueError as error:
            raise ValueError(f"bad guest address: {error}") from None
    if re.fullmatch(r"[0-9.]+", inner) or ":" in inner:
        return _address(inner, "guest")
    try:
        return words.hostname(inner)
    except ValueError:
        raise ValueError(f"bad guest address {shown(value)}") from None


_DASHED = r"[0-9a-fA-F]{1,2}(?:-[0-9a-fA-F]{1,2}){5}"
FORWARD = (  # PORT[-PORT]-[GUEST]:PORT[-PORT]; a MAC with dashes is no range of ports
    rf"([^-:]*)(?:-(?!{_DASHED}:)(0x[0-9a-fA-F]+|[0-9]+))?-(\[[^\]]*\]|[^:\[\]]*):([^:-]*)(?:-([^:-]*))?"
)


def hostfwd(value: str) -> HostForward:
    """One host-to-guest rule."""
    if ":" not in value:
        raise ValueError('no ":" in the rule')
    protocol, _, rest = value.partition(":")
    if protocol == "unix":
        match = re.fullmatch(r"(.+)-(\[[^\]]*\]|[^:\[/]*):([^:]*)", rest, re.DOTALL)
        if not match:
            raise ValueError("not unix:PATH-[GUEST]:PORT")
        return HostForward("unix", unix_path(match[1]), guest(match[2]), _port(match[3], "guest"), text=value)
    if protocol not in ("", "tcp", "udp"):
        near = nearest(protocol, ("tcp", "udp", "unix"))
        raise ValueError(f"bad protocol {shown(protocol)}{near or ' (tcp, udp or unix)'}")
    address, rest = _head(rest, ":")
    if address and not address.startswith("[") and ":" in address:
        raise ValueError("an IPv6 address needs brackets")
    listen = str(_address(address, "host")) if address else ""
    match = re.fullmatch(FORWARD, rest)
    if not match:
        if "-" not in rest:
            raise ValueError(f'no "-" after the host port {shown(rest.partition(":")[0])}')
        raise ValueError(f"not PORT-[GUEST]:PORT: {shown(rest)}")
    first, last, to, inner, inner_last = match.groups()
    target = guest(to)
    start = _port(first, "host", 0)
    end = start if last is None else _port(last, "host", 0)
    guest_start = _port(inner, "guest")
    guest_end = guest_start + end - start if inner_last is None else _port(inner_last, "guest")
    if end < start or (last is not None and start == 0):
        raise ValueError(f"bad host port range {start}-{end}")
    if guest_end - guest_start != end - start or guest_end > 65535:
        raise ValueError(f"{end - start + 1} host ports do not fit guest ports {guest_start}-{guest_end}")
    return HostForward(
        protocol or "tcp", Endpoint(listen, start), target, guest_start, end - start + 1, value
    )


def redir(value: str) -> HostForward:
    """One rule of the old -redir."""
    parts = value.split(":")
    if len(parts) != 4:
        raise ValueError("not tcp|udp:PORT:[GUEST]:PORT")
    protocol, outer, to, inner = parts
    if protocol not in ("tcp", "udp"):
        near = nearest(protocol, ("tcp", "udp")) or " (tcp or udp)"
        raise ValueError(f"bad protocol {shown(protocol)}{near}")
    return HostForward(
        protocol,
        Endpoint("", _port(outer, "host", 0)),
        guest(to),
        _port(inner, "guest"),
        text=value,
        option="-redir ",
    )


def hostfwd_listen(value: str) -> tuple[str, Endpoint | UnixPath, int]:
    """What QEMU's hostfwd_remove takes, the part of a rule before the guest: (protocol, listen, count)."""
    protocol, colon, rest = value.partition(":")
    if colon and protocol == "unix" and rest:
        return "unix", unix_path(rest), 1
    if not colon or protocol not in ("", "tcp", "udp"):
        raise ValueError("not [tcp|udp]:[ADDR]:PORT or unix:PATH")
    address, rest = _head(rest, ":")
    first, dash, last = rest.partition("-")
    start = _port(first, "host", 0)
    end = _port(last, "host", start) if dash else start
    host = str(_address(address, "host")) if address else ""
    return protocol or "tcp", Endpoint(host, start), end - start + 1


TARGETS = ("cmd", "tcp", "udp", "unix", "file")


def guestfwd(value: str) -> GuestForward:
    """One guest-to-host rule."""
    protocol, colon, rest = value.partition(":")
    if not colon or protocol not in ("", "tcp", "udp"):
        raise ValueError("not [tcp|udp]:[ADDR]:PORT-TARGET")
    address, rest = _head(rest, ":")
    digits, dash, target = rest.partition("-")
    if not dash:
        raise ValueError('no "-" after the port')
    server = _address(address, "server") if address else None
    number = _port(digits, "server")
    kind, colon, to = target.partition(":")
    if not colon or kind not in TARGETS:
        raise ValueError(
            f"target {shown(target)} is none of cmd:, tcp:, udp:, unix:, file:{nearest(kind, TARGETS)}"
        )
    goal: str | Endpoint
    if kind == "udp" and protocol != "udp":
        raise ValueError("udp: answers UDP only")
    if kind in ("cmd", "file"):
        goal = words.text(to)
    elif kind == "unix":
        path = unix_path(to)
        goal = "@" + path.path if path.abstract else path.path
    else:
        goal = words.endpoint(any_host=False)(to)
    return GuestForward(protocol or "tcp", server, number, kind, goal, value)


def guestfwd_place(value: str) -> tuple[str, IpAddress | None, int]:
    """What guestfwd_remove takes, the part of a rule before the target: (protocol, address, port)."""
    protocol, colon, rest = value.partition(":")
    if not colon or protocol not in ("", "tcp", "udp"):
        raise ValueError("not [tcp|udp]:[ADDR]:PORT")
    address, rest = _head(rest, ":")
    return protocol or "tcp", _address(address, "server") if address else None, _port(rest, "server")


def _rule(value: str, allow: bool) -> Rule:
    protocol: str | None = None
    rest = value
    for known in ("tcp", "udp", "icmp"):
        if value.startswith(known + ":"):
            protocol, rest = known, value[len(known) + 1 :]
    if rest.startswith("["):
        inner, bracket, tail = rest[1:].partition("]")
        if not bracket or (tail and not tail.startswith(":")):
            raise ValueError("not [NET]:PORT")
        digits = tail[1:] if tail else None
    elif rest.count(":") >= 2:
        inner, digits = rest, None
    else:
        inner, colon, tail = rest.partition(":")
        digits = tail if colon else None
    if inner in ("any", "*"):
        raise ValueError('"any" is 0.0.0.0/0 or ::/0')
    net = words.cidr(inner)
    ports = None
    if digits is not None:
        if protocol == "icmp":
            raise ValueError("icmp has no ports")
        first, dash, last = digits.partition("-")
        low = _port(first, "first")
        ports = (low, _port(last, "last") if dash else low)
        if ports[1] < low:
            raise ValueError(f"bad port range {digits}")
    return Rule(allow, protocol, net, ports, value)


def allow(value: str) -> Rule:
    """One line of allow=."""
    return _rule(value, True)


def deny(value: str) -> Rule:
    """One line of deny=."""
    return _rule(value, False)


def lease(value: str) -> Lease:
    """MAC=ADDR[=NAME]."""
    parts = value.split("=")
    if len(parts) not in (2, 3):
        raise ValueError("not MAC=ADDR[=NAME]")
    return Lease(
        words.mac(parts[0]), words.ip4(parts[1]), words.hostname(parts[2]) if len(parts) == 3 else None
    )


def record(value: str) -> tuple[str, IpAddress]:
    """NAME=ADDR."""
    label, equals, address = value.partition("=")
    if not equals:
        raise ValueError("not NAME=ADDR")
    return words.hostname(label).lower(), words.ip(address)


def route(value: str) -> tuple[IPv4Network, IPv4Address]:
    """NET-ROUTER: a classless static route."""
    net, dash, router = value.partition("-")
    if not dash:
        raise ValueError("not NET/BITS-ROUTER")
    return words.net4(net), words.ip4(router)


SERVERS_OWN = (50, 51, 52, 53, 54, 55, 57, 58, 59, 61, 82)


def dhcp_option(value: str) -> tuple[int, bytes]:
    """NUMBER=VALUE: an IPv4 address (several with + between), 0xHEX, or text; nothing: leave the option out."""
    digits, equals, content = value.partition("=")
    if not equals:
        raise ValueError("not NUMBER=VALUE")
    number = words.number(1, 254, "an option number")(digits)
    if number in SERVERS_OWN:
        raise ValueError(f"option {number} is the DHCP server's own")
    if content.startswith("0x"):
        if not re.fullmatch(r"0x([0-9a-fA-F]{2})*", content):
            raise ValueError("not pairs of hexadecimal digits")
        data = bytes.fromhex(content[2:])
    elif re.fullmatch(r"[0-9.]+(\+[0-9.]+)*", content) and "." in content:
        data = b"".join(words.ip4(part).packed for part in content.split("+"))
    else:
        data = content.encode("utf-8", "surrogateescape")
    if len(data) > 255:
        raise ValueError("longer than 255 bytes")
    return number, data


def bootfile(value: str) -> tuple[int | None, str]:
    """FILE, or ARCH=FILE for a client architecture of option 93, or ipxe=FILE (-1) for clients that are iPXE."""
    if value.startswith("ipxe="):
        return -1, words.limited(127)(value[5:])
    match = re.fullmatch(r"(0x[0-9a-fA-F]+|[0-9]+)=(.+)", value, re.DOTALL)
    arch = words.number(0, 65535, "an architecture")(match[1]) if match else None
    return arch, words.limited(127)(match[2] if match else value)


def resolvers(value: str) -> tuple[tuple[str, int], ...]:
    """ADDR[:PORT] with + between: name servers of the host's side. [V6]:PORT, or a bare V6."""
    found = []
    for part in value.split("+"):
        if part.startswith("[") and not part.endswith("]"):
            address, digits = words.split_port(part)
        elif part.count(":") == 1:
            address, _, digits = part.partition(":")
        else:
            address, digits = words.unbracket(part), "53"
        try:
            found.append((str(words.ip(address, scoped=True)), _port(digits, "resolver")))
        except ValueError as error:
            raise ValueError(f"{shown(part)}: {error}") from None
    return tuple(found)


def impair(value: str) -> Impairment:
    """[in+|out+]KEY=VALUE+KEY=VALUE..."""
    return impairments.parse(re.split(r"[+ ]", value))


def slot(value: str) -> int:
    """PCI address as QEMU: device in hexadecimal, ".0" allowed behind it."""
    match = re.fullmatch(r"(?:0x)?([0-9a-fA-F]{1,2})(?:\.([0-9]))?", value)
    if not match:
        raise ValueError("not a PCI slot (hexadecimal, as QEMU's addr=)")
    if match[2] not in (None, "0"):
        raise ValueError("a card is function 0 of its slot")
    number = int(match[1], 16)
    if not 2 <= number <= 31:
        raise ValueError("not a slot 2..1f (0 is the host bridge, 1 the PIIX3)")
    return number


def netns(value: str) -> str | int:
    """A pid, or the path of a namespace file."""
    if re.fullmatch(r"[0-9]+", value):
        return words.number(1, 2**22, "a pid")(value)
    if "/" not in value:
        raise ValueError('neither a pid nor a path (has no "/")')
    return words.text(value)


CHARDEV_KEYS = ("server", "wait", "nodelay", "trusted")


def chardev(origin: str, value: str) -> Chardev | None:
    """stdio | unix:PATH | tcp:[HOST]:PORT [,server=on][,wait=off][,trusted=on] | none. None: none.

    The old spellings ``server`` and ``nowait`` are taken. Raises OptionError.
    """
    first, *rest = words.split(value)
    flags = {"server": False, "wait": True, "nodelay": False, "trusted": False}
    for word in rest:
        key, equals, content = word.partition("=")
        if key == "nowait" and not equals:
            key, content, equals = "wait", "off", "="
        if key not in flags:
            raise OptionError(f"{origin} {first}: unknown key {shown(key)}{nearest(key, CHARDEV_KEYS)}")
        try:
            flags[key] = words.boolean(content) if equals else True
        except ValueError as error:
            raise OptionError(f"{origin} {first}: {key}={content}: {error}") from None
    kind, colon, rest_text = first.partition(":")
    address: Endpoint | UnixPath | None
    try:
        if first == "none" and not rest:
            return None
        if first == "stdio":
            address = None
        elif kind == "unix" and colon:
            address = unix_path(rest_text)
        elif kind == "tcp" and colon:
            address = words.endpoint()(rest_text)
            if not address.host:
                address = Endpoint("localhost", address.port)
        else:
            near = nearest(kind, ("stdio", "unix", "tcp", "none"))
            raise ValueError(f"not stdio, unix:PATH, tcp:HOST:PORT or none{near}")
    except ValueError as error:
        raise OptionError(f"{origin} {first}: {error}") from None
    if address is None and (flags["server"] or len(rest) > flags["trusted"]):
        raise OptionError(f"{origin} {first}: stdio takes no server= or wait=")
    return Chardev(
        origin=f"{origin} {first}",
        address=address,
        server=flags["server"],
        wait=flags["wait"],
        trusted=flags["trusted"],
    )
