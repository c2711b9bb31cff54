"""From converted values to backends: one function for each type, with the checks between keys.

``make(kind, given)`` answers a ``Net`` without VLAN or name (``tapnet.options.resolve`` puts it in its place) and may
add warnings to ``given``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from ..config import (
    DgramNet,
    Dhcp,
    DumpNet,
    Endpoint,
    Fd,
    HostForward,
    IpAddress,
    Net,
    Smb,
    SocketAddress,
    SocketNet,
    StreamNet,
    TapNet,
    Tftp,
    UnixPath,
    UserNet,
    UserV4,
    UserV6,
    VdeNet,
    VxlanNet,
    WsNet,
)
from ..text import printable
from . import converters as words
from . import grammars as rules
from .given import Given

DEFAULT_NET = IPv4Network("10.0.2.0/24")
DEFAULT_NET6 = IPv6Network("fec0::/64")
HOST, DNS, FIRST = 0x0202, 0x0203, 0x020F  # QEMU's addresses, cut by the mask
MAX_RESOLVERS, MAX_SEARCH = 8, 32
MIN_MTU6 = 1280  # RFC 8200 5: below, IPv6 is off unless asked for
MAX_REMOTES = 64  # of -net vxlan
NO_LIMIT = 2**31 - 1  # what sndbuf=0 stands for
MIN_BITS, MAX_BITS = 4, 29  # the NAT's IPv4 net: room for host, dns and a guest


# ---- user -------------------------------------------------------------------------------------------------


def qemu_bits(address: IPv4Address) -> int:
    """The mask that QEMU gives to ``net=`` without one: classful, with some private nets."""
    number = int(address)
    for value, bits, result in (
        (0x00000000, 1, 8),
        (0xAC100000, 12, 12),
        (0x80000000, 2, 16),
        (0xC0A80000, 16, 16),
        (0xC6120000, 16, 15),
        (0xE0000000, 3, 24),
    ):
        if number >> (32 - bits) == value >> (32 - bits):
            return result
    return 28


def _user_net(given: Given) -> IPv4Network:
    given.alone("net", "ip")
    given.needs("mask", "net", "ip")
    value = given.get("net")
    if "ip" in given.values:
        value = f"{given.get('ip')}/{given.values.pop('mask', 24)}"
    if value is None:
        return DEFAULT_NET
    address, slash, _ = value.partition("/")
    try:
        if slash:
            if "mask" in given.values:
                raise given.error("net= with /BITS and mask= exclude each other")
            net = words.net4(value)
        elif "mask" in given.values:
            net = words.net4(f"{address}/{given.get('mask')}")
        else:
            net = words.net4(f"{address}/24")
            given.warnings.append(
                f"{given.origin}: net={address} is taken as {net}; "
                f"QEMU would take /{qemu_bits(words.ip4(address))}: say which you mean"
            )
    except ValueError as error:
        raise given.error(f"net={printable(value)[:60]}: {error}") from None
    if not MIN_BITS <= net.prefixlen <= MAX_BITS:
        raise given.error(f"net={net}: the mask must be between /{MIN_BITS} and /{MAX_BITS}")
    if net.network_address.packed[0] in (0, 127) or net.network_address.packed[0] >= 224:
        raise given.error(f"net={net}: not a net that guests can live in")
    return net


def _foreign(given: Given, key: str, address: IpAddress, net: str) -> None:
    """Refuse an address outside the net, but for a name server's: as in QEMU, guests find it by the router."""
    if not key.endswith("dns"):
        raise given.error(f"{key}={address} is not in {net}")
    if given.get("restrict"):
        raise given.error(f"{key}={address} is not in {net}: with restrict=on guests cannot reach it")
    if address.is_multicast or address.is_reserved or address.is_link_local or address.packed[0] in (0, 127):
        raise given.error(f"{key}={address}: not an address that a name server can have")


def _user_v4(given: Given) -> UserV4:
    """QEMU's addresses where none are given; in a small net the next ones that can be."""
    net = _user_net(given)
    base, edges = int(net.network_address), (net.network_address, net.broadcast_address)
    found: dict[str, IPv4Address] = {}
    for key, offset in (("host", HOST), ("dns", DNS), ("dhcpstart", FIRST)):
        if key in given.values:
            found[key] = address = given.get(key)
            if address not in net:
                _foreign(given, key, address, f"net={net}")
            if address in edges:
                raise given.error(f"{key}={address} is the net's own or broadcast address")
            continue
        address = IPv4Address(base | offset & int(net.hostmask))
        avoid = (
            set(found.values()) if key == "dhcpstart" else {found[k] for k in found if k not in given.values}
        )
        for _ in range(4):
            if address not in edges and address not in avoid:
                break
            address = IPv4Address(base + (int(address) - base + 1) % net.num_addresses)
        found[key] = address
    for key, other in (("dns", "host"), ("dhcpstart", "host"), ("dhcpstart", "dns")):
        if found[key] == found[other]:
            raise given.error(f"{key}={found[key]} is also {other}=")
    return UserV4(net, **found)


def _user_v6(given: Given) -> UserV6:
    given.alone("ipv6-net", "ipv6-prefix", "ipv6-prefixlen", "ipv6-ula")
    given.alone("ipv6-ula", "ipv6-prefix")
    given.needs("ipv6-prefixlen", "ipv6-prefix")
    net: IPv6Network = given.get("ipv6-net", given.get("ipv6-ula") or DEFAULT_NET6)
    if "ipv6-prefix" in given.values:
        net = IPv6Network((given.get("ipv6-prefix"), given.get("ipv6-prefixlen", 64)), strict=False)
    if net.prefixlen > 126:
        raise given.error(f"ipv6-net={net}: the prefix must not be longer than /126")
    if net.is_multicast or net.is_link_local or net.network_address.packed[:8] == bytes(8):
        raise given.error(f"ipv6-net={net}: not a net that guests can live in")
    base = int(net.network_address)
    host: IPv6Address = given.get("ipv6-host", IPv6Address(base | 2))
    dns: IPv6Address = given.get("ipv6-dns", IPv6Address(base | 3))
    for key, address in (("ipv6-host", host), ("ipv6-dns", dns)):
        if address not in net:
            _foreign(given, key, address, f"ipv6-net={net}")
        if int(address) == base:
            raise given.error(f"{key}={address} is the net's own (subnet-router anycast) address")
    if dns == host:
        raise given.error(f"ipv6-dns={dns} is also ipv6-host=")
    return UserV6(net, host, dns)


def families(given: Given) -> tuple[bool, bool]:
    """(IPv4, IPv6) as QEMU decides: one switched on alone switches the other off."""
    v4, v6 = given.get("ipv4"), given.get("ipv6")
    if v4 is False and v6 is False:
        raise given.error("ipv4=off and ipv6=off leave nothing")
    if v4 is None:
        v4 = v6 is not True
    narrow = given.get("mtu", MIN_MTU6) < MIN_MTU6
    if narrow and (v6 or not v4):
        raise given.error(f"mtu={given.get('mtu')}: IPv6 needs {MIN_MTU6}")
    if v6 is None:
        v6 = given.get("ipv4") is not True and not narrow
    return v4, v6


def _user_dhcp(given: Given, v4: UserV4 | None) -> Dhcp:
    leases = tuple(given.get("lease", ()))
    seen: dict[object, object] = {}
    for lease in leases:
        if v4 is not None and lease.address not in v4.net:
            raise given.error(f"lease={words.mac_text(lease.mac)}={lease.address} is not in net={v4.net}")
        if v4 is not None and lease.address in (v4.host, v4.dns):
            raise given.error(
                f"lease={words.mac_text(lease.mac)}={lease.address} is an address of the NAT's own"
            )
        if v4 is not None and lease.address in (v4.net.network_address, v4.net.broadcast_address):
            raise given.error(
                f"lease={words.mac_text(lease.mac)}={lease.address} is the net's own or broadcast address"
            )
        for what in (lease.mac, lease.address):
            if what in seen:
                raise given.error(f"lease={words.mac_text(lease.mac)}={lease.address}: given twice")
            seen[what] = lease
    files = given.get("bootfile", ())
    plain = [name for arch, name in files if arch is None]
    special = tuple((arch, name) for arch, name in files if arch is not None)
    if len(plain) > 1 or len({arch for arch, _ in special}) < len(special):
        raise given.error(f"bootfile={files[-1][1]}: given twice for one architecture")
    options = tuple(given.get("dhcp-option", ()))
    numbers = [number for number, _ in options]
    for number in numbers:
        if numbers.count(number) > 1:
            raise given.error(f"dhcp-option={number}: given twice (+ joins addresses)")
    return Dhcp(
        hostname=given.get("hostname"),
        domainname=given.get("domainname"),
        search=tuple(given.get("dnssearch", ())),
        lease_time=given.get("lease-time", 86400),
        lease_given="lease-time" in given.values,
        leases=leases,
        bootfile=plain[0] if plain else None,
        bootfiles=special,
        tftp_server_name=given.get("tftp-server-name"),
        next_server=given.get("next-server"),
        ntp=tuple(given.get("ntp", ())),
        routes=tuple(given.get("route", ())),
        options=options,
        state=given.get("state"),
    )


def _user(given: Given) -> UserNet:
    on4, on6 = families(given)
    for key in ("net", "ip", "mask", "host", "dhcpstart", "dns"):
        if not on4 and key in given.values:
            raise given.error(f"{key}= needs ipv4=on")
    for key in ("ipv6-net", "ipv6-prefix", "ipv6-prefixlen", "ipv6-ula", "ipv6-host", "ipv6-dns"):
        if not on6 and key in given.values:
            raise given.error(f"{key}= needs ipv6=on")
    given.needs("tftp-write", "tftp")
    given.needs("tftp-nocase", "tftp")
    for key in ("smbserver", "smb-user", "smb-legacy"):
        given.needs(key, "smb")
    v4 = _user_v4(given) if on4 else None
    directory, share = given.get("tftp"), given.get("smb")
    resolvers = tuple(address for group in given.get("resolver", ()) for address in group)
    for key, found, limit in (
        ("resolver", resolvers, MAX_RESOLVERS),
        ("dnssearch", given.get("dnssearch", ()), MAX_SEARCH),
    ):
        if len(found) > limit:
            raise given.error(f"{key}=: more than {limit} of them")
    v6 = _user_v6(given) if on6 else None
    for forward in given.get("hostfwd", ()):
        check_forward(given, forward, v4, v6)
    for forward in given.get("guestfwd", ()):
        if v4 and isinstance(forward.address, IPv4Address):
            if forward.address not in v4.net:
                raise given.error(f"guestfwd={forward.text}: {forward.address} is not in net={v4.net}")
            if forward.address in (v4.host, v4.dns) and forward.port == 53:
                raise given.error(f"guestfwd={forward.text}: port 53 there is the name server's")
    return UserNet(
        origin=given.origin,
        name="",
        id=None,
        vlan=None,
        v4=v4,
        v6=v6,
        restrict=given.get("restrict", False),
        hostloopback=given.get("hostloopback", True),
        resolvers=resolvers,
        dhcp=_user_dhcp(given, v4),
        tftp=Tftp(directory, given.get("tftp-write", False), given.get("tftp-nocase", False))
        if directory
        else None,
        smb=Smb(share, given.get("smbserver"), given.get("smb-user"), given.get("smb-legacy", False))
        if share
        else None,
        forwards=tuple(given.get("hostfwd", ())),
        guest_forwards=tuple(given.get("guestfwd", ())),
        rules=tuple(given.filters),
        records=tuple(given.get("record", ())),
        ftp=given.get("ftp", "auto"),
        mtu=given.get("mtu"),
        buffers=given.get("buffers", 64 << 20),
    )


def check_forward(
    given: Given, forward: HostForward, v4: UserV4 | None, v6: UserV6 | None, key: str = "hostfwd="
) -> None:
    """Refuse a redirection to a guest address that no guest can have."""
    if isinstance(forward.guest, IPv6Address) and (v6 is None or forward.guest not in v6.net):
        where = f"not in ipv6-net={v6.net}" if v6 else "IPv6, which is off"
        raise given.error(f"{key}{forward.text}: guest {forward.guest} is {where}")
    if isinstance(forward.guest, IPv4Address) and (v4 is None or forward.guest not in v4.net):
        where = f"not in net={v4.net}" if v4 else "IPv4, which is off"
        raise given.error(f"{key}{forward.text}: guest {forward.guest} is {where}")


# ---- tap --------------------------------------------------------------------------------------------------


def _tap(given: Given) -> TapNet:
    own = ("ifname", "script", "downscript", "vnet_hdr", "helper", "queues")
    given.alone("fd", "fds", "br", *own)
    given.alone("fds", "br", *own)
    given.alone("helper", "ifname", "script", "downscript", "vnet_hdr", "queues")
    given.alone("vhostfd", "vhostfds")
    for key in ("vhostfd", "vhostfds", "vhostforce", "poll-us"):
        given.needs(key, "vhost")
    script, down = given.get("script"), given.get("downscript")
    fds = given.get("fds", ()) or ((given.get("fd"),) if "fd" in given.values else ())
    return TapNet(
        origin=given.origin,
        name="",
        id=None,
        vlan=None,
        ifname=given.get("ifname"),
        br=given.get("br"),
        script=None if script == "no" else script,
        downscript=None if down == "no" else down,
        fds=fds,
        helper=given.get("helper"),
        sndbuf=NO_LIMIT if given.get("sndbuf") == 0 else given.get("sndbuf"),
        vnet_hdr=given.get("vnet_hdr"),
        queues=given.get("queues"),
        mac=given.get("mac"),
        mtu=given.get("mtu"),
    )


def _bridge(given: Given) -> TapNet:
    helper = given.get("helper", "/usr/lib/qemu/qemu-bridge-helper")
    br = given.get("br", "br0")
    return TapNet(origin=given.origin, name="", id=None, vlan=None, br=br, helper=helper, bridge=True)


def _vxlan(given: Given) -> VxlanNet:
    if "vni" not in given.values:
        raise given.error("needs vni= (or id= in -net), the number of the VXLAN network")
    given.alone("remote", "group")
    if "remote" not in given.values and "group" not in given.values:
        raise given.error("needs remote= or group=")
    given.needs("group", "dev")
    remotes, group, local = given.get("remote", ()), given.get("group"), given.get("local")
    if group is not None and not group.is_multicast:
        raise given.error(f"group={group}: not a multicast address")
    if len(remotes) > MAX_REMOTES:
        raise given.error(f"remote=: more than {MAX_REMOTES} of them")
    first = remotes[0] if remotes else group
    for remote in remotes:
        if remote.is_multicast:
            raise given.error(f"remote={remote}: a multicast address; use group=")
        if remote.version != first.version or remotes.count(remote) > 1:
            why = "twice" if remote.version == first.version else f"not of the family of {first}"
            raise given.error(f"remote={remote}: {why}")
    if local is not None and local.version != first.version:
        raise given.error(f"local={local}: not of the family of {first}")
    keys = ("vni", "group", "dev", "local", "br", "ifname", "mtu")
    values = {key: given.get(key) for key in keys} | {"remotes": remotes}
    return VxlanNet(origin=given.origin, name="", id=None, vlan=None, port=given.get("port", 4789), **values)


# ---- sockets ----------------------------------------------------------------------------------------------


def _socket(given: Given) -> SocketNet:
    ways = ("fd", "listen", "connect", "mcast", "udp")
    found = [way for way in ways if way in given.values]
    if len(found) != 1:
        raise given.error(f"needs exactly one of {', '.join(w + '=' for w in ways)}")
    way = found[0]
    local = given.get("localaddr")
    address = None
    if local is not None:
        if way not in ("mcast", "udp"):
            raise given.error(f"localaddr= goes with mcast= or udp=, not with {way}=")
        try:
            if way == "udp":
                address = words.endpoint()(local)
            else:
                bare = local if local.count(":") != 1 else local.partition(":")[0]
                address = Endpoint(str(words.ip(bare, scoped=True)), 0)
        except ValueError as error:
            raise given.error(f"localaddr={printable(local)}: {error}") from None
    elif way == "udp":
        raise given.error("udp= needs localaddr=")
    return SocketNet(
        origin=given.origin, name="", id=None, vlan=None, localaddr=address, **{way: given.get(way)}
    )


def _address(given: Given, prefix: str) -> SocketAddress | None:
    """One of QEMU's SocketAddress unions; None: not given."""
    mine = {k.partition(".")[2]: v for k, v in given.values.items() if k.startswith(prefix + ".")}
    if not mine:
        return None
    kind = mine.pop("type", None)
    if kind is None:
        raise given.error(f"needs {prefix}.type=inet, unix or fd")
    allowed = {
        "inet": ("host", "port", "to", "numeric", "ipv4", "ipv6", "keep-alive", "mptcp"),
        "unix": ("path", "abstract", "tight"),
        "fd": ("str",),
    }[kind]
    for key in mine:
        if key not in allowed:
            raise given.error(f"{prefix}.{key}= does not belong to {prefix}.type={kind}")
    for key in {"inet": ("host", "port"), "unix": ("path",), "fd": ("str",)}[kind]:
        if key not in mine:
            raise given.error(f"{prefix}.type={kind} needs {prefix}.{key}=")
    if kind == "fd":
        return Fd(mine["str"])
    try:
        if kind == "unix":
            path = rules.unix_path(mine["path"])
            abstract = path.abstract or mine.get("abstract", False)
            if abstract and not mine.get("tight", True):  # the name goes on with NULs to the end of sun_path
                return UnixPath(path.path + "\0" * (rules.MAX_PATH - len(os.fsencode(path.path))), True)
            return UnixPath(path.path, abstract)
        return Endpoint(words.host(words.unbracket(mine["host"])), mine["port"])
    except ValueError as error:
        key = "path" if kind == "unix" else "host"
        raise given.error(f"{prefix}.{key}={printable(mine[key])[:60]}: {error}") from None


def _stream(given: Given) -> StreamNet:
    address = _address(given, "addr")
    if address is None:
        raise given.error("needs addr.type=inet, unix or fd")
    server = given.get("server", False)
    given.alone("reconnect", "reconnect-ms")
    for key in ("reconnect", "reconnect-ms"):
        if server and given.get(key):
            raise given.error(f"{key}= is for clients, not with server=on")
    if isinstance(address, Endpoint) and not server and not address.port:
        raise given.error("addr.port=0 is for server=on")
    last = given.get("addr.to")
    if last is not None and (not server or (isinstance(address, Endpoint) and last < address.port)):
        raise given.error(f"addr.to={last}: needs server=on and a port not below addr.port")
    if given.get("addr.ipv4") is False and given.get("addr.ipv6") is False:
        raise given.error("addr.ipv4=off and addr.ipv6=off leave nothing")
    return StreamNet(
        origin=given.origin,
        name="",
        id=None,
        vlan=None,
        address=address,
        server=server,
        reconnect_ms=given.get("reconnect-ms", given.get("reconnect", 0) * 1000),
        to=last,
        ipv4=given.get("addr.ipv4"),
        ipv6=given.get("addr.ipv6"),
        keep_alive=given.get("addr.keep-alive", False),
        mptcp=given.get("addr.mptcp", False),
    )


def _dgram(given: Given) -> DgramNet:
    for key in given.values:
        if key.partition(".")[2] in ("to", "keep-alive", "mptcp"):
            raise given.error(f"{key}= means nothing for datagrams")
    net = DgramNet(
        origin=given.origin,
        name="",
        id=None,
        vlan=None,
        local=_address(given, "local"),
        remote=_address(given, "remote"),
    )
    if isinstance(net.remote, Fd):
        raise given.error("remote.type=fd: only local can be a descriptor")
    if net.local is None and not net.multicast:
        raise given.error("needs local.type= (only a multicast remote can do without)")
    if isinstance(net.local, Fd) and net.remote is not None and not net.multicast:
        raise given.error("local.type=fd excludes remote.type=")
    if not isinstance(net.local, Fd) and net.remote is None:
        raise given.error("needs remote.type=")
    if net.local is not None and net.remote is not None and not isinstance(net.local, Fd | type(net.remote)):
        raise given.error("local.type= and remote.type= must be the same")
    return net


def _vde(given: Given) -> VdeNet:
    return VdeNet(
        origin=given.origin,
        name="",
        id=None,
        vlan=None,
        sock=given.get("sock"),
        port=given.get("port", 0),
        group=given.get("group"),
        file_mode=given.get("mode", 0o700),
    )


def _ws(given: Given) -> WsNet:
    listen = given.get("listen")
    if listen is None:
        raise given.error("needs listen=")
    if not listen.host:
        listen = Endpoint("localhost", listen.port)
    return WsNet(
        origin=given.origin,
        name="",
        id=None,
        vlan=None,
        listen=listen,
        origins=tuple(given.get("origin", ())),
    )


def _dump(given: Given) -> DumpNet:
    file = given.get("file") or ""  # "" until the VLAN is known
    return DumpNet(origin=given.origin, name="", id=None, vlan=None, file=file, len=given.get("len", 65536))


MAKERS: dict[str, Callable[[Given], Net]] = {
    "user": _user,
    "tap": _tap,
    "bridge": _bridge,
    "vxlan": _vxlan,
    "socket": _socket,
    "stream": _stream,
    "dgram": _dgram,
    "vde": _vde,
    "ws": _ws,
    "dump": _dump,
}


def make(kind: str, given: Given) -> Net:
    """The backend of type ``kind`` that ``given`` describes. Raises OptionError."""
    return MAKERS[kind](given)
