"""The words of options: splitting them, converting values, and complaining in one line.

An option's value is ``first,key=value,key=value``. A comma in a value is doubled. A converter takes the text
of one value and returns the typed value, or raises ``ValueError`` whose message completes "KEY=VALUE: ...".
Everything that a user can get wrong ends as ``OptionError``, nothing else is raised.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from ..config import Endpoint, IpAddress, IpNetwork
from ..text import nearest, printable, shown

MAX_WORD = 65536  # characters of one option's value
MAX_KEYS = 1024  # key=value pairs in one option
MAX_VLAN = 2**31 - 1
MAX_NUMBER = 2**63 - 1
MAX_TEXT = 4096  # characters of one value


def split(text: str) -> list[str]:
    """Split at single commas; ``,,`` is a comma. A trailing comma ends nothing. ``join`` is the inverse."""
    parts = [""]
    at = 0
    while True:
        comma = text.find(",", at)
        if comma < 0:
            parts[-1] += text[at:]
            break
        parts[-1] += text[at:comma]
        if text.startswith(",,", comma):
            parts[-1] += ","
            at = comma + 2
        else:
            parts.append("")
            at = comma + 1
    if len(parts) > 1 and parts[-1] == "":
        parts.pop()
    return parts


def join(parts: Iterable[str]) -> str:
    """One option value of ``parts``, commas doubled."""
    return ",".join(part.replace(",", ",,") for part in parts)


# ---- converters: scalars ----------------------------------------------------------------------------------


def text(value: str) -> str:
    """Any text that is not empty."""
    if not value:
        raise ValueError("needs a value")
    if len(value) > MAX_TEXT:
        raise ValueError(f"longer than {MAX_TEXT} characters")
    if "\0" in value:
        raise ValueError("has a NUL in it")
    return value


def limited(limit: int, what: str = "bytes") -> Callable[[str], str]:
    """Converter: text of up to ``limit`` bytes of UTF-8."""

    def convert(value: str) -> str:
        if len(text(value).encode("utf-8", "surrogateescape")) > limit:
            raise ValueError(f"longer than {limit} {what}")
        return value

    return convert


def script(value: str) -> str:
    """A program's path; "no", or nothing as libvirt writes it: none."""
    return text(value) if value else "no"


TRUE = ("on", "yes", "true", "y", "1")
FALSE = ("off", "no", "false", "n", "0")


def boolean(value: str) -> bool:
    """on|off|yes|no|true|false."""
    lower = value.lower()
    if lower in TRUE:
        return True
    if lower in FALSE:
        return False
    raise ValueError("not on or off")


def integer(value: str) -> int:
    """A number in base 10, 16 (0x), 8 (0, 0o) or 2 (0b). Every negative one is -1, which is in no range."""
    digits = value.strip()
    base = 0
    if re.fullmatch(r"-[0-9]{1,32}", digits):
        return -1
    if re.fullmatch(r"0[0-7]+", digits):
        base = 8
    if not re.fullmatch(r"[0-9a-zA-Z]{1,32}", digits):
        raise ValueError("not a number")
    try:
        number = int(digits, base)
    except ValueError:
        raise ValueError("not a number") from None
    if number > MAX_NUMBER:
        raise ValueError("too large")
    return number


def number(low: int, high: int, what: str = "") -> Callable[[str], int]:
    """Converter: a number in ``low``..``high``."""

    def convert(value: str) -> int:
        n = integer(value)
        if not low <= n <= high:
            raise ValueError(f"not {what or 'in'} {low}..{high}")
        return n

    return convert


def size(default: str = "") -> Callable[[str], int]:
    """Converter: bytes, with QEMU's suffixes bKMGTPE; ``default`` is the suffix of a bare number."""
    units = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50, "e": 1 << 60}

    def convert(value: str) -> int:
        match = re.fullmatch(
            r"(0[xX][0-9a-fA-F]{1,15}|[0-9]{1,18}(?:\.[0-9]{1,18})?)([bkmgtpeBKMGTPE]?)", value
        )
        if not match:
            raise ValueError("not a size (a number, with K, M or G behind it)")
        digits, suffix = match.groups()
        unit = units[(suffix or default or "b").lower()]
        if digits.lower().startswith("0x"):
            total = int(digits, 16) * unit
        else:
            whole, _, part = digits.partition(".")
            total = int(whole) * unit + (int(part) * unit // 10 ** len(part) if part else 0)
        if total > MAX_NUMBER:
            raise ValueError("too large")
        return total

    return convert


def between(convert: Callable[[str], int], low: int, high: int, why: str) -> Callable[[str], int]:
    """``convert``, then a range check whose failure says ``why``."""

    def check(value: str) -> int:
        n = convert(value)
        if not low <= n <= high:
            raise ValueError(why)
        return n

    return check


def choice(*words: str) -> Callable[[str], str]:
    """Converter: one of ``words``."""

    def convert(value: str) -> str:
        if value not in words:
            raise ValueError(f"not one of {', '.join(words)}{nearest(value, words)}")
        return value

    return convert


port = number(1, 65535, "a port")
port0 = number(0, 65535, "a port")
fd = number(0, 2**20, "a descriptor")


def fds(value: str) -> tuple[int, ...]:
    """Descriptors with colons between."""
    found = tuple(fd(part) for part in value.split(":"))
    if len(set(found)) != len(found):
        raise ValueError("names one descriptor twice")
    if len(found) > 1024:
        raise ValueError("more than 1024 descriptors")
    return found


def octal(value: str) -> int:
    """File permissions in octal, as chmod."""
    if not re.fullmatch(r"(0o?)?[0-7]{1,4}", value):
        raise ValueError("not octal file permissions")
    return int(value.replace("o", ""), 8)


def seconds(value: str) -> int:
    """Seconds, or with s, m, h or d behind the number."""
    match = re.fullmatch(r"([0-9]{1,10})([smhd]?)", value)
    if not match:
        raise ValueError("not a time (a number, with s, m, h or d behind it)")
    total = int(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]
    if not 60 <= total <= 0xFFFFFFFF:
        raise ValueError("not between 60 s and 4294967295 s")
    return total


# ---- converters: names ------------------------------------------------------------------------------------


def identifier(value: str) -> str:
    """An id as QEMU takes it: a letter, then letters, digits, - . _"""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]{0,63}", value):
        raise ValueError("not an identifier (a letter, then up to 63 letters, digits, - . _)")
    return value


def name(value: str) -> str:
    """A member's name: up to 64 printable characters without blanks."""
    if not 1 <= len(value) <= 64 or not value.isprintable() or any(c.isspace() for c in value):
        raise ValueError("not a name (up to 64 characters without blanks)")
    return value


def instance(value: str) -> str:
    """An instance's name: it becomes a file name."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", value):
        raise ValueError("not a name (up to 64 letters, digits, - . _)")
    return value


def interface(value: str) -> str:
    """A Linux interface name: 1 to 15 bytes, no blank, slash or colon."""
    if not 1 <= len(value.encode("utf-8", "replace")) <= 15:
        raise ValueError("an interface name has 1 to 15 characters")
    if value in (".", "..") or not value.isprintable() or any(c.isspace() or c in "/:%" for c in value):
        raise ValueError("not an interface name")
    return value


def tap_interface(value: str) -> str:
    """As ``interface``; one %d stands for the kernel's own number."""
    interface(value.replace("%d", "0", 1))
    return value


def hostname(value: str) -> str:
    """A host or domain name: labels of letters, digits, - and _."""
    bare = value[:-1] if value.endswith(".") else value
    if not 1 <= len(bare) <= 253 or not all(
        re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", label) for label in bare.split(".")
    ):
        raise ValueError("not a host or domain name")
    return bare


# ---- converters: addresses --------------------------------------------------------------------------------


def mac(value: str) -> bytes:
    """A unicast MAC address with : or - between its bytes."""
    if not re.fullmatch(r"[0-9a-fA-F]{1,2}([:-][0-9a-fA-F]{1,2}){5}", value):
        raise ValueError("not a MAC address (six bytes as 52:54:00:12:34:56)")
    address = bytes(int(part, 16) for part in re.split("[:-]", value))
    if address[0] & 1:
        raise ValueError("a multicast address cannot be a card's own")
    if not any(address):
        raise ValueError("all zeros cannot be a card's own")
    return address


def mac_text(address: bytes) -> str:
    """``address`` as 52:54:00:12:34:56."""
    return ":".join(f"{byte:02x}" for byte in address)


def ip4(value: str) -> IPv4Address:
    """An IPv4 address."""
    try:
        return IPv4Address(value)
    except ValueError:
        raise ValueError("not an IPv4 address") from None


def mask4(value: str) -> IPv4Address:
    """An IPv4 mask: ones, then zeros."""
    mask = ip4(value)
    zeros = int(mask) ^ 0xFFFFFFFF
    if zeros & (zeros + 1):
        raise ValueError("not a mask (ones, then zeros, as 255.255.255.0)")
    return mask


def _unscoped(address: IpAddress) -> None:
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise ValueError(f"an interface (%{printable(address.scope_id)}) has no meaning here")


def ip6(value: str, *, scoped: bool = False) -> IPv6Address:
    """An IPv6 address, brackets allowed; ``scoped``: %INTERFACE behind it as well."""
    try:
        address = IPv6Address(unbracket(value))
    except ValueError:
        raise ValueError("not an IPv6 address") from None
    if not scoped:
        _unscoped(address)
    return address


def ip(value: str, *, scoped: bool = False) -> IpAddress:
    """An IPv4 or IPv6 address, brackets allowed round the latter; ``scoped``: %INTERFACE behind it as well."""
    try:
        address = ip_address(unbracket(value))
    except ValueError:
        raise ValueError("not an IP address") from None
    if not scoped:
        _unscoped(address)
    return address


def net4(value: str) -> IPv4Network:
    """ADDR/BITS or ADDR/MASK; bits behind the mask are dropped as QEMU does."""
    address, slash, mask = value.partition("/")
    if not slash:
        raise ValueError("needs /BITS")
    base = ip4(address)
    if "." in mask:
        mask4(mask)
    try:
        return IPv4Network((base, mask), strict=False)
    except ValueError:
        raise ValueError("not an IPv4 network (ADDR/BITS)") from None


def net6(value: str) -> IPv6Network:
    """PREFIX/BITS."""
    address, slash, bits = value.partition("/")
    if not slash:
        bits = "64"
    try:
        return IPv6Network((ip6(address), int(bits)), strict=False)
    except ValueError:
        raise ValueError("not an IPv6 network (PREFIX/BITS)") from None


def cidr(value: str) -> IpNetwork:
    """A network of either family; a bare address is one host."""
    inner = unbracket(value)
    try:
        return IPv6Network(inner, strict=False) if ":" in inner else IPv4Network(inner, strict=False)
    except ValueError:
        raise ValueError("not a network (ADDR/BITS)") from None


def unbracket(value: str) -> str:
    """``[x]`` as ``x``."""
    return value[1:-1] if value.startswith("[") and value.endswith("]") else value


def split_port(value: str) -> tuple[str, str]:
    """``host:port`` as (host, port text): host without brackets; an IPv6 address must have them."""
    if value.startswith("["):
        inner, bracket, rest = value[1:].partition("]")
        if not bracket or not rest.startswith(":"):
            raise ValueError("not [ADDR]:PORT")
        ip6(inner, scoped=True)
        return inner, rest[1:]
    host, colon, digits = value.rpartition(":")
    if not colon:
        raise ValueError("not HOST:PORT")
    if ":" in host:
        raise ValueError("an IPv6 address needs brackets: [ADDR]:PORT")
    return host, digits


def host(value: str) -> str:
    """A numeric address or a name."""
    if re.fullmatch(r"[0-9.]+", value):
        return str(ip4(value))
    if ":" in value:
        return str(ip6(value, scoped=True))
    return hostname(value)


def endpoint(*, any_host: bool = True, any_port: bool = False) -> Callable[[str], Endpoint]:
    """Converter: HOST:PORT, [V6]:PORT, or :PORT where ``any_host``."""

    def convert(value: str) -> Endpoint:
        address, digits = split_port(value)
        if not address and not any_host:
            raise ValueError("needs a host before the colon")
        try:
            p = (port0 if any_port else port)(digits)
        except ValueError as error:
            raise ValueError(f"{shown(digits)} is {error}") from None
        return Endpoint(host(address) if address else "", p)

    return convert


def near_endpoint(value: str) -> Endpoint:
    """[HOST]:PORT; without a host, this machine (IPv4), as QEMU's connect= and udp=."""
    found = endpoint()(value)
    return found if found.host else Endpoint("127.0.0.1", found.port)


def listen_endpoint(value: str) -> Endpoint:
    """[HOST]:PORT or a bare PORT, as QEMU's listen=."""
    return endpoint()(value if ":" in value else ":" + value)


def multicast_endpoint(value: str) -> Endpoint:
    """GROUP:PORT, the group numeric."""
    address, digits = split_port(value)
    group = ip(address, scoped=True)
    if not group.is_multicast:
        raise ValueError(f"{address} is not a multicast address (224.0.0.0 to 239.255.255.255, or ff00::/8)")
    try:
        return Endpoint(str(group), port(digits))
    except ValueError as error:
        raise ValueError(f"{shown(digits)} is {error}") from None
