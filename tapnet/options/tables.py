"""The tables: every option, every type of net, every key, and how its value is read.

A ``Key`` says how one key's value is converted and shown in help; ``later`` marks what is parsed and checked
but has no engine yet: building it is refused by one line. To give it its engine, build it and drop ``later``.
Names and meanings are QEMU 7.2's, except keys listed as ours in docs/tapnet.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..config import MODELS
from . import converters as words
from . import grammars as rules
from . import ula


@dataclass(frozen=True, slots=True)
class Key:
    """A key is one key of an option and says how its value is read."""

    name: str
    convert: Callable[[str], Any]
    meta: str  # the value, in help
    repeat: bool = False
    later: bool = False
    # values of a key not implemented yet that are accepted because they mean today's behaviour
    idle: tuple[object, ...] = (False,)

    def waits(self, value: object) -> bool:
        """Return whether ``value`` asks for what has no engine yet."""
        asked = value[0] if isinstance(value, tuple) and value else value  # bootfile: (architecture, file)
        return self.later and not any(
            asked is idle or (isinstance(idle, str) and asked == idle) for idle in self.idle
        )


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind is one type of -net or -netdev, with its keys."""

    name: str
    help: str
    keys: Mapping[str, Key] = field(default_factory=dict)
    later: bool = False


def _table(*keys: Key) -> dict[str, Key]:
    return {key.name: key for key in keys}


def _flag(name: str, *, later: bool = False) -> Key:
    return Key(name, words.boolean, "on|off", later=later)


VLAN = Key("vlan", words.number(0, words.MAX_VLAN), "N")
ID = Key("id", words.identifier, "ID")
NAME = Key("name", words.name, "NAME")
IMPAIR = Key("impair", rules.impair, "[in+|out+]K=V[+K=V]...")
MTU = Key("mtu", words.number(68, 65520), "N")

# Keys of a card. -net nic spells the MAC "macaddr", -nic and -device "mac"; both are taken everywhere.
NIC = _table(
    Key("model", words.text, "MODEL"),
    Key("macaddr", words.mac, "MAC"),
    Key("mac", words.mac, "MAC"),
    Key("netdev", words.identifier, "ID"),
    Key("addr", rules.slot, "SLOT"),
    Key("bus", words.choice("pci.0", "isa.0"), "pci.0|isa.0"),
    Key("vectors", words.number(0, 2**32 - 1), "N"),
    Key("iobase", words.number(0x100, 0xFFE0), "PORT"),
    Key("irq", words.number(2, 15), "N"),
    Key("rev", words.number(0, 255), "N"),
    Key("tx-delay", words.choice("wire", "none"), "wire|none"),
    Key("netns", rules.netns, "PATH|PID"),
    Key("ifname", words.interface, "NAME"),
    MTU,
    _flag("dhcp"),
    Key("vfio-user", words.limited(rules.MAX_PATH), "PATH"),
    IMPAIR,
)
NIC_ONLY = tuple(k for k in NIC if k not in ("ifname", "mtu", "impair", "netdev"))
LATER_MODELS: tuple[str, ...] = ()

USER = _table(
    _flag("ipv4"),
    Key("net", words.text, "ADDR[/BITS]"),
    Key("ip", words.ip4, "ADDR"),
    Key("mask", words.mask4, "MASK"),
    Key("host", words.ip4, "ADDR"),
    Key("dhcpstart", words.ip4, "ADDR"),
    Key("dns", words.ip4, "ADDR"),
    _flag("ipv6"),
    Key("ipv6-net", words.net6, "PREFIX[/BITS]"),
    Key("ipv6-prefix", words.ip6, "PREFIX"),
    Key("ipv6-prefixlen", words.number(0, 126), "BITS"),
    Key("ipv6-host", words.ip6, "ADDR"),
    Key("ipv6-dns", words.ip6, "ADDR"),
    Key("ipv6-ula", ula.option, "on|off|NAME"),
    _flag("restrict"),
    Key("hostname", words.hostname, "NAME"),
    Key("domainname", words.hostname, "NAME"),
    Key("dnssearch", words.hostname, "DOMAIN", repeat=True),
    Key("resolver", rules.resolvers, "ADDR[:PORT][+...]", repeat=True),
    _flag("hostloopback"),
    Key("lease-time", words.seconds, "TIME"),
    Key("lease", rules.lease, "MAC=ADDR[=NAME]", repeat=True),
    Key("ntp", words.ip, "ADDR", repeat=True),
    Key("route", rules.route, "NET/BITS-ROUTER", repeat=True),
    Key("dhcp-option", rules.dhcp_option, "N=VALUE", repeat=True),
    Key("state", words.text, "DIR"),
    Key("tftp", words.text, "DIR"),
    _flag("tftp-write"),
    _flag("tftp-nocase"),
    Key("tftp-server-name", words.limited(255), "NAME"),
    Key("bootfile", rules.bootfile, "[ARCH=|ipxe=]FILE", repeat=True),
    Key("next-server", words.ip4, "ADDR"),
    Key(
        "hostfwd",
        rules.hostfwd,
        "[tcp|udp]:[ADDR]:PORT[-PORT]|unix:PATH-[GUEST]:PORT",
        repeat=True,
    ),
    Key("guestfwd", rules.guestfwd, "[tcp|udp]:[ADDR]:PORT-TARGET", repeat=True),
    Key("smb", words.text, "DIR"),
    Key("smbserver", words.ip4, "ADDR"),
    Key("smb-user", words.text, "USER"),
    _flag("smb-legacy"),
    Key("allow", rules.allow, "[tcp|udp|icmp:]NET[:PORT[-PORT]]", repeat=True),
    Key("deny", rules.deny, "[tcp|udp|icmp:]NET[:PORT[-PORT]]", repeat=True),
    Key("record", rules.record, "NAME=ADDR", repeat=True),
    Key("ftp", words.choice("on", "off", "auto"), "on|off|auto"),
    Key("mtu", words.number(576, 65520), "N"),
    Key("buffers", words.between(words.size(), 1 << 20, 1 << 36, "not between 1M and 64G"), "SIZE"),
)

_SCRIPT = Key("script", words.script, "FILE|no")
_HELPER = Key("helper", words.text, "PROGRAM")
_BR = Key("br", words.interface, "BRIDGE")
TAP = _table(
    Key("ifname", words.tap_interface, "NAME"),
    _BR,
    _SCRIPT,
    Key("downscript", words.script, "FILE|no"),
    Key("fd", words.fd, "N"),
    Key("fds", words.fds, "N:N...", later=True),
    _HELPER,
    Key("sndbuf", words.between(words.size(), 0, 2**31 - 1, "not 0..2147483647"), "SIZE"),
    _flag("vnet_hdr"),
    Key("queues", words.number(1, 256), "N", later=True),
    _flag("vhost", later=True),
    _flag("vhostforce", later=True),
    Key("vhostfd", words.fd, "N", later=True),
    Key("vhostfds", words.fds, "N:N...", later=True),
    Key("poll-us", words.number(0, 2**32 - 1), "N", later=True),
    Key("mac", words.mac, "MAC"),
    MTU,
)
BRIDGE = _table(_BR, _HELPER)
VXLAN = _table(
    Key("vni", words.number(1, 2**24 - 1), "N"),
    Key("remote", words.ip, "ADDR", repeat=True),
    Key("group", words.ip, "ADDR"),
    Key("dev", words.interface, "IF"),
    Key("port", words.port, "PORT"),
    Key("local", words.ip, "ADDR"),
    _BR,
    Key("ifname", words.tap_interface, "NAME"),
    MTU,
)
SOCKET = _table(
    Key("fd", words.fd, "N"),
    Key("listen", words.listen_endpoint, "[HOST]:PORT"),
    Key("connect", words.near_endpoint, "[HOST]:PORT"),
    Key("mcast", words.multicast_endpoint, "GROUP:PORT"),
    Key("udp", words.near_endpoint, "[HOST]:PORT"),
    Key("localaddr", words.text, "ADDR[:PORT]"),
)


def _socket_address(prefix: str) -> tuple[Key, ...]:
    """Return the keys of QEMU's SocketAddress union."""
    return (
        Key(f"{prefix}.type", words.choice("inet", "unix", "fd"), "inet|unix|fd"),
        Key(f"{prefix}.host", words.text, "HOST"),
        Key(f"{prefix}.port", words.port0, "PORT"),
        Key(f"{prefix}.path", words.limited(rules.MAX_PATH), "PATH"),
        Key(f"{prefix}.str", words.fd, "FD"),
        Key(f"{prefix}.to", words.port, "PORT"),
        _flag(f"{prefix}.numeric"),
        _flag(f"{prefix}.ipv4"),
        _flag(f"{prefix}.ipv6"),
        _flag(f"{prefix}.keep-alive"),
        _flag(f"{prefix}.mptcp"),
        _flag(f"{prefix}.abstract"),
        _flag(f"{prefix}.tight"),
    )


STREAM = _table(
    _flag("server"),
    *_socket_address("addr"),
    Key("reconnect", words.number(0, 2**31 // 1000), "SECONDS"),
    Key("reconnect-ms", words.number(0, 2**31 - 1), "MS"),
)
DGRAM = _table(*_socket_address("local"), *_socket_address("remote"))
VDE = _table(
    Key("sock", words.text, "DIR"),
    Key("port", words.number(0, 65535), "N"),
    Key("group", words.text, "GROUP"),
    Key("mode", words.octal, "OCTAL"),
)
WS = _table(
    Key("listen", words.listen_endpoint, "[HOST]:PORT"),
    Key("origin", words.text, "ORIGIN", repeat=True),
)
DUMP = _table(
    Key("file", words.text, "FILE"),
    Key("len", words.between(words.size(), 14, 262144, "not 14..262144"), "SIZE"),
)
HUBPORT = _table(Key("hubid", words.number(0, words.MAX_VLAN), "N"), Key("netdev", words.identifier, "ID"))
HUB = _table(_flag("switch"))

NETS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("user", "user-mode NAT with DHCP and DNS: no privilege needed", USER),
        Kind("tap", "TAP device of the host, on a bridge with br=", TAP),
        Kind("bridge", "TAP device that a helper puts on a bridge", BRIDGE),
        Kind("socket", "frames over TCP, UDP or multicast, as QEMU", SOCKET),
        Kind("stream", "frames over a TCP or UNIX stream socket, as QEMU", STREAM),
        Kind("dgram", "frames as UDP or UNIX datagrams, as QEMU", DGRAM),
        Kind("vde", "plug of a running vde_switch", VDE),
        Kind("ws", "WebSocket server, for emulators in browsers", WS),
        Kind("vxlan", "TAP, bridge and kernel VXLAN as one", VXLAN),
        Kind("hubport", "joins what names it to VLAN hubid=", HUBPORT),
        Kind("dump", "capture of a VLAN in a pcap file", DUMP),
    )
}
NIC_KIND = Kind("nic", "network card", NIC)
HUB_KIND = Kind("hub", "how a VLAN forwards", HUB)
NONE_KIND = Kind("none", "no network at all")

# QEMU's other back ends: not ours.
FOREIGN = {
    "l2tpv3": "tapnet has no l2tpv3 backend; use a kernel tunnel and -net tap,br=",
    "vhost-user": "vhost-user is for virtio cards; tapnet has none",
    "vhost-vdpa": "vhost-vdpa is for virtio cards; tapnet has none",
    "netmap": "tapnet has no netmap backend; use -net tap",
    "af-xdp": "tapnet has no af-xdp backend; use -net tap",
    "passt": "start passt by itself and use -net stream,addr.type=unix,addr.path=PATH",
    "slirp": "the word is -net user",
    "channel": "the word is guestfwd= of -net user",
}

# Misspelled in the document that began this project, or never a model of ours.
MODEL_HINTS = {
    "nek2_isa": "ne2k_isa",
    "nek2_pci": "ne2k_pci",
    "ne2000": "ne2k_pci",
    "ne2k": "ne2k_pci",
    "rtl8029": "ne2k_pci",
    "pcnet-pci": "pcnet",
    "pcnet32": "pcnet",
    "8139too": "rtl8139",
}
MODEL_HELP = {
    "ne2k_pci": "NE2000 on PCI: RealTek RTL-8029(AS), 10ec:8029",
    "ne2k_isa": "NE2000 on ISA: I/O 0x300, IRQ 9",
    "rtl8139": "RealTek RTL-8139C+, 10ec:8139",
    "pcnet": "AMD Am79C970A PCnet-PCI II, 1022:2000",
    "direct": "no card: the namespace's device itself, with offload",
}
assert tuple(MODEL_HELP) == MODELS
MACHINE_HELP = {"pc": "PCI and ISA slots, host bridge and PIIX3", "isapc": "ISA slots only"}

LOG_ITEMS = {
    "slirp": "all of the NAT",
    "arp": "ARP and neighbours",
    "dhcp": "DHCP and BOOTP",
    "dns": "name look-ups",
    "icmp": "ICMP, both families",
    "tcp": "TCP flows",
    "udp": "UDP flows",
    "tftp": "TFTP sessions",
    "forward": "redirections",
    "nic": "card events",
    "regs": "register accesses",
    "hub": "VLANs and ports",
    "tap": "TAP devices and bridges",
    "monitor": "monitor commands",
}
LOG_LATER = ("nic", "regs", "tap", "monitor")  # known, and without an engine yet


@dataclass(frozen=True, slots=True)
class Option:
    """This describes one option of the command line."""

    name: str
    meta: str  # "" for a flag
    help: str
    alias: str = ""
    commands: tuple[str, ...] = ("run", "exec")
    later: bool = False
    table: bool = False  # in TOML: [[name]] tables


OPTIONS: dict[str, Option] = {
    option.name: option
    for option in (
        Option("net", "TYPE[,KEY=VALUE]...", "a card or a backend, on VLAN 0 or vlan=N", table=True),
        Option("netdev", "TYPE,id=ID[,...]", "a backend for -device, outside the VLANs", table=True),
        Option("device", "MODEL[,netdev=ID][,...]", "a card", table=True),
        Option("nic", "[TYPE][,model=M][,...]", "a card and its backend on their own wire", table=True),
        Option(
            "object",
            "filter-dump,id=ID,...",
            "capture at one member",
            table=True,
        ),
        Option("machine", "pc|isapc", "the bus that cards sit on (pc)", alias="M"),
        Option("m", "SIZE", "guest RAM of that bus (64M)"),
        Option("redir", "RULE", "tcp|udp:PORT:[GUEST]:PORT, for hostfwd="),
        Option("tftp", "DIR", "for tftp= of -net user"),
        Option("bootp", "FILE", "for bootfile= of -net user"),
        Option("smb", "DIR", "for smb= of -net user"),
        Option("mode", "user|tap", "plug only this kind (or TAPNET_MODE)"),
        Option("config", "FILE", "read options from a TOML file first"),
        Option("name", "NAME", "name of this instance (its pid)"),
        Option("monitor", "DEV", "monitor on stdio, unix:PATH, tcp:HOST:PORT or none"),
        Option("qmp", "DEV", "machine monitor (QMP), DEV as above"),
        Option("qtest", "DEV", "serve that bus by QEMU's qtest (DEV: -monitor)"),
        Option("metrics", "[HOST]:PORT", "serve counters to Prometheus"),
        Option("d", "ITEM[,ITEM]...", "trace these (-d help lists them)"),
        Option("D", "FILE", "write traces to FILE"),
        Option("ready-fd", "N", "write one byte to descriptor N when all is up"),
        Option("runas", "USER", "drop privilege to USER after set-up", commands=("run",)),
        Option("keep-uid", "", "COMMAND keeps your uid (otherwise it is uid 0)", commands=("exec",)),
    )
}
ALIASES = {option.alias: option.name for option in OPTIONS.values() if option.alias}
TABLES = tuple(name for name, option in OPTIONS.items() if option.table)

# Options of old QEMUs and near misses: one line that says what it is now.
OLD_OPTIONS = {
    "isa": "use -M isapc",
    "user-net": "use -net nic -net user",
    "nics": "use one -net nic for each card",
    "macaddr": "use -net nic,macaddr=MAC",
    "tun-fd": "use -net tap,fd=N",
    "dummy-net": "use -net nic without a backend",
    "n": "use -net tap,script=FILE",
    "no-network": "use -net none",
    "hostfwd": "use -net user,hostfwd=RULE",
    "vlan": "use vlan=N as a key of -net",
    "model": "use -net nic,model=MODEL",
    "user": "use -net user",
    "tap": "use -net tap",
    "hda": "tapnet emulates the network only; attach a VM by -net nic,vfio-user=PATH",
    "L": "tapnet emulates the network only",
    "enable-kvm": "tapnet emulates the network only",
}


def kinds_help(option: str) -> str:
    """Return what ``-net help`` and ``-netdev help`` print."""
    lines = [f"-{option} TYPE[,KEY=VALUE]...; types:"]
    kinds = list(NETS.values())
    if option == "net":
        kinds = [NIC_KIND, *kinds, HUB_KIND, NONE_KIND]
    for kind in kinds:
        lines.append(f"  {kind.name:9}{kind.help}{' (not built yet)' if kind.later else ''}")
    return "\n".join([*lines, f"-{option} TYPE,help lists the keys of one type."])


def keys_help(origin: str, kind: Kind, common: Mapping[str, Key]) -> str:
    """Return what ``-net user,help`` prints."""
    lines = [f"{origin}: {kind.help}{' (not built yet)' if kind.later else ''}; keys:"]
    for key in (*common.values(), *kind.keys.values()):
        notes = ["repeatable"] if key.repeat else []
        if key.later and not kind.later:
            notes.append("not built yet" if key.idle == (False,) else "partly built")
        lines.append(f"  {key.name}={key.meta}{' (' + ', '.join(notes) + ')' if notes else ''}")
    return "\n".join(lines)


def models_help() -> str:
    """Return what ``-net nic,model=help`` prints."""
    lines = ["Network cards:"]
    for model, what in MODEL_HELP.items():
        lines.append(f"  {model:9}{what}{' (not built yet)' if model in LATER_MODELS else ''}")
    return "\n".join(lines)


def machines_help() -> str:
    """Return what ``-M help`` prints."""
    return "\n".join(["Machines:", *(f"  {name:9}{what}" for name, what in MACHINE_HELP.items())])


def log_help() -> str:
    """Return what ``-d help`` prints."""
    return "\n".join(
        [
            "Items of -d:",
            *(
                f"  {name:9}{what}{' (not built yet)' if name in LOG_LATER else ''}"
                for name, what in LOG_ITEMS.items()
            ),
        ]
    )
