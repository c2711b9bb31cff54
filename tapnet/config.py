"""What a command line or a TOML file means: frozen dataclasses with typed, checked values.

``tapnet.options.parse`` makes them, ``tapnet.instance.instance`` wires objects by them; nothing here parses or opens anything.

    Config
      members   Nic and Net objects in option order, on a VLAN (``vlan``) or a private wire (``vlan`` None)
      wires     the private pairs: -netdev/-device and -nic
      monitors, qtest, qmp, metrics ...

Every default is filled in: model, MAC, PCI slot, I/O base, IRQ, interface name, names, NAT addresses.
``hubport`` has been resolved: a net or NIC behind one carries its VLAN. ``origin`` is the text that messages
begin with ("-net user", "lab.toml: [[net]] 2").

Units: bytes, seconds, milliseconds where the name says ``_ms``. A MAC is 6 ``bytes``; addresses are
``ipaddress`` objects; host ends of sockets are ``Endpoint`` because they may be names.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import ClassVar

IpAddress = IPv4Address | IPv6Address
IpNetwork = IPv4Network | IPv6Network

MODELS = ("ne2k_pci", "ne2k_isa", "rtl8139", "pcnet", "direct")
MACHINES = ("pc", "isapc")
MODES = ("user", "tap")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host socket address: numeric address or name ("" is any), without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixPath:
    """A UNIX socket; ``abstract``: in the abstract name space."""

    path: str
    abstract: bool = False


@dataclass(frozen=True, slots=True)
class Fd:
    """A descriptor that we inherited."""

    number: int


SocketAddress = Endpoint | UnixPath | Fd


@dataclass(frozen=True, slots=True)
class Loss:
    """Shares 0..1. ``r`` None: each frame is lost by ``p``; otherwise Gilbert-Elliott (``tapnet.options.impairments``)."""

    p: float
    r: float | None = None
    h: float = 1.0
    k: float = 0.0


@dataclass(frozen=True, slots=True)
class Effects:
    """What a cable does to the frames of one direction. Times in ns, shares 0..1, rate in bits per second."""

    delay: int = 0
    jitter: int = 0
    loss: Loss | None = None
    dup: float = 0.0
    reorder: float = 0.0
    corrupt: float = 0.0
    rate: int | None = None
    mtu: int | None = None  # bytes behind the Ethernet header
    limit: int = 1000  # frames that wait

    def text(self) -> str:
        """Return the words of one direction, as ``options.impairments.parse`` takes them."""
        out = []
        for key, value in (("delay", self.delay), ("jitter", self.jitter)):
            if value:
                out.append(f"{key}={value / 1e6:g}ms")
        if self.loss is not None:
            loss = self.loss
            shares = [loss.p] if loss.r is None else [loss.p, loss.r, loss.h, loss.k]
            out.append("loss=" + ":".join(f"{share * 100:g}%" for share in shares))
        for key, part in (("dup", self.dup), ("reorder", self.reorder), ("corrupt", self.corrupt)):
            if part:
                out.append(f"{key}={part * 100:g}%")
        if self.rate is not None:
            out.append(f"rate={self.rate}")
        if self.mtu is not None:
            out.append(f"mtu={self.mtu}")
        out.append(f"limit={self.limit}")
        return " ".join(out)


@dataclass(frozen=True, slots=True)
class Impairment:
    """A bad cable: into the VLAN, out of it. None: that direction stays as it is; seed None: one is chosen."""

    inbound: Effects | None
    outbound: Effects | None
    seed: int | None = None


# ---- cards -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    """One card. Where its guest is: ``netns``, ``vfio_user``, the exec'd command's namespace (``in_guest`` of
    ``exec`` with neither), otherwise the machine's bus."""

    origin: str
    name: str  # unique among NICs: name=, id=, or "ne2k_pci.0"
    id: str | None
    model: str
    mac: bytes
    vlan: int | None  # None: private wire
    netdev: str | None  # id of the Net at the other end of the private wire; None there: no peer
    slot: int | None  # PCI device number; None: not a PCI card of ours
    iobase: int | None  # ISA only
    irq: int | None  # ISA only
    rev: int | None  # PCI revision asked for; None: the model's own
    netns: str | int | None  # path, or pid
    vfio_user: str | None  # path of the socket to serve
    ifname: str | None  # of the device in the guest's namespace; None: there is none
    mtu: int | None  # of that device; None: 1500
    dhcp: bool  # run the DHCP client on that device
    impair: Impairment | None = None
    tx_delay: bool = False  # a frame takes its time on a wire of the card's speed


# ---- backends ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Net:
    """What all backends share."""

    kind: ClassVar[str] = ""
    origin: str
    name: str  # unique among nets: name=, id=, or "user.0"
    id: str | None
    vlan: int | None  # None: private wire
    plugged: bool = True  # False: valid, but kept out by --mode
    impair: Impairment | None = None


@dataclass(frozen=True, slots=True)
class UserV4:
    """IPv4 side of the NAT: the guest's view."""

    net: IPv4Network
    host: IPv4Address
    dns: IPv4Address
    dhcpstart: IPv4Address


@dataclass(frozen=True, slots=True)
class UserV6:
    """IPv6 side of the NAT: the guest's view."""

    net: IPv6Network
    host: IPv6Address
    dns: IPv6Address


@dataclass(frozen=True, slots=True)
class Lease:
    """A static DHCP lease."""

    mac: bytes
    address: IPv4Address
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dhcp:
    """What the DHCP server hands out beside addresses."""

    hostname: str | None = None
    domainname: str | None = None
    search: tuple[str, ...] = ()
    lease_time: int = 86400  # seconds
    lease_given: bool = False  # lease-time= was said
    renew_time: int | None = None  # T1, seconds; None: half of the lease
    leases: tuple[Lease, ...] = ()
    bootfile: str | None = None
    bootfiles: tuple[tuple[int, str], ...] = ()  # (client architecture of option 93, or -1: iPXE; file)
    tftp_server_name: str | None = None
    next_server: IPv4Address | None = None
    ntp: tuple[IpAddress, ...] = ()
    routes: tuple[tuple[IPv4Network, IPv4Address], ...] = ()  # classless: (net, router)
    options: tuple[tuple[int, bytes], ...] = ()  # (number, value)
    state: str | None = None  # directory that keeps leases over a restart


@dataclass(frozen=True, slots=True)
class Tftp:
    """TFTP server."""

    directory: str
    write: bool = False
    nocase: bool = False


@dataclass(frozen=True, slots=True)
class Smb:
    """Private smbd for one directory."""

    directory: str
    server: IPv4Address | None = None
    user: str | None = None
    legacy: bool = False


@dataclass(frozen=True, slots=True)
class HostForward:
    """Host to guest. ``count`` ports in a row, from ``listen.port`` to ``guest_port``."""

    protocol: str  # tcp, udp, unix
    listen: Endpoint | UnixPath
    guest: IpAddress | bytes | str | None  # address, MAC, DHCP host name; None: the first guest (10.0.2.15)
    guest_port: int
    count: int = 1
    text: str = ""  # as it was given
    option: str = "hostfwd="  # what stood before the text


@dataclass(frozen=True, slots=True)
class GuestForward:
    """Guest to host: what answers at an address of the NAT's net."""

    protocol: str  # tcp, udp
    address: IpAddress | None  # None: net + 4 as QEMU
    port: int
    target: str  # cmd, tcp, udp, unix, file
    to: str | Endpoint  # command line, path, or address
    text: str = ""  # as it was given


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the allow/deny list; the first that matches wins."""

    allow: bool
    protocol: str | None  # tcp, udp, icmp; None: all
    net: IpNetwork
    ports: tuple[int, int] | None = None  # inclusive; None: all
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserNet(Net):
    """The user-mode NAT (``slirp``)."""

    kind = "user"
    v4: UserV4 | None  # None: switched off
    v6: UserV6 | None
    restrict: bool = False
    hostloopback: bool = True
    resolvers: tuple[tuple[str, int], ...] = ()  # (address, port); empty: the host's
    dhcp: Dhcp = Dhcp()
    tftp: Tftp | None = None
    smb: Smb | None = None
    forwards: tuple[HostForward, ...] = ()
    guest_forwards: tuple[GuestForward, ...] = ()
    rules: tuple[Rule, ...] = ()
    records: tuple[tuple[str, IpAddress], ...] = ()
    ftp: str = "auto"
    mtu: int | None = None
    buffers: int = 64 << 20  # bytes held for guests


@dataclass(frozen=True, slots=True, kw_only=True)
class TapNet(Net):
    """A TAP device of the host. ``bridge``: made by the helper only (-net bridge)."""

    kind = "tap"
    ifname: str | None = None  # may hold %d, as the kernel takes it; None: tap%d
    br: str | None = None
    script: str | None = None  # None: no script
    downscript: str | None = None
    fds: tuple[int, ...] = ()  # fd= or fds=
    helper: str | None = None
    sndbuf: int | None = None
    vnet_hdr: bool | None = None  # None: when the kernel has it
    queues: int | None = None
    mac: bytes | None = None
    mtu: int | None = None
    bridge: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VxlanNet(Net):
    """TAP, bridge and a kernel VXLAN as one thing."""

    kind = "vxlan"
    vni: int
    remotes: tuple[IpAddress, ...] = ()
    group: IpAddress | None = None
    dev: str | None = None
    port: int = 4789
    local: IpAddress | None = None
    br: str | None = None
    ifname: str | None = None
    mtu: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketNet(Net):
    """QEMU's socket backend: exactly one of the five is set."""

    kind = "socket"
    fd: int | None = None
    listen: Endpoint | None = None
    connect: Endpoint | None = None
    mcast: Endpoint | None = None
    udp: Endpoint | None = None
    localaddr: Endpoint | None = None  # with udp: where to bind; with mcast: address of the interface, port 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamNet(Net):
    """QEMU's stream backend: length-prefixed frames on a stream socket."""

    kind = "stream"
    address: SocketAddress
    server: bool = False
    reconnect_ms: int = 0  # 0: never
    to: int | None = None  # last port to try to listen on
    ipv4: bool | None = None
    ipv6: bool | None = None
    keep_alive: bool = False
    mptcp: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DgramNet(Net):
    """QEMU's dgram backend: one frame a datagram."""

    kind = "dgram"
    local: SocketAddress | None = None
    remote: SocketAddress | None = None

    @property
    def multicast(self) -> bool:
        """Whether ``remote`` is a multicast group."""
        if not isinstance(self.remote, Endpoint):
            return False
        try:
            return IPv4Address(self.remote.host).is_multicast
        except ValueError:
            try:
                return IPv6Address(self.remote.host).is_multicast
            except ValueError:
                return False


@dataclass(frozen=True, slots=True, kw_only=True)
class VdeNet(Net):
    """A plug in a running vde_switch."""

    kind = "vde"
    sock: str | None = None
    port: int = 0
    group: str | None = None
    file_mode: int = 0o700


@dataclass(frozen=True, slots=True, kw_only=True)
class WsNet(Net):
    """WebSocket server, one binary message a frame."""

    kind = "ws"
    listen: Endpoint
    origins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpNet(Net):
    """Classic pcap of a whole VLAN: an observer, no member."""

    kind = "dump"
    file: str
    len: int = 65536


# ---- the rest ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Chardev:
    """Where a monitor, QMP or the register bus talks. ``address`` None: stdio."""

    origin: str
    address: Endpoint | UnixPath | None
    server: bool = False
    wait: bool = True  # server: whether start-up waits for the first client
    trusted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """-object filter-dump: pcap of what one member sends and receives."""

    origin: str
    id: str
    netdev: str
    file: str
    maxlen: int = 65536
    queue: str = "all"  # all, rx, tx
    status: bool = True


@dataclass(frozen=True, slots=True)
class Wire:
    """A private pair. One side None: that end hangs loose."""

    nic: Nic | None
    net: Net | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All of it."""

    mode: str | None = None  # user, tap; None: everything is plugged
    machine: str = "pc"
    memory: int = 64 << 20
    name: str | None = None  # None: the pid
    members: tuple[Nic | Net, ...] = ()
    monitors: tuple[Chardev, ...] = ()
    qtest: Chardev | None = None
    qmp: tuple[Chardev, ...] = ()
    metrics: Endpoint | None = None
    filters: tuple[Filter, ...] = ()
    switches: tuple[int, ...] = ()  # VLANs that learn addresses instead of repeating
    log_items: tuple[str, ...] = ()
    log_file: str | None = None
    runas: str | None = None
    ready_fd: int | None = None
    keep_uid: bool = False
    command: tuple[str, ...] = ()  # exec
    files: tuple[str, ...] = ()  # configuration files that were read
    warnings: tuple[str, ...] = ()
    unbuilt: tuple[str, ...] = ()  # one line for each thing that is valid but has no engine yet

    @property
    def nics(self) -> tuple[Nic, ...]:
        """NICs in option order."""
        return tuple(m for m in self.members if isinstance(m, Nic))

    @property
    def nets(self) -> tuple[Net, ...]:
        """Backends in option order, those that --mode keeps out included."""
        return tuple(m for m in self.members if isinstance(m, Net))

    @property
    def vlans(self) -> dict[int, tuple[Nic | Net, ...]]:
        """VLAN number -> its members in option order; numbers ascending."""
        numbers = sorted({m.vlan for m in self.members if m.vlan is not None})
        return {n: tuple(m for m in self.members if m.vlan == n) for n in numbers}

    @property
    def wires(self) -> tuple[Wire, ...]:
        """Private pairs, in the order of their NICs; then nets without a NIC."""
        nets = {net.id: net for net in self.nets if net.vlan is None}
        loose = [nic for nic in self.nics if nic.vlan is None]
        wires = [Wire(nic, nets.pop(nic.netdev, None) if nic.netdev else None) for nic in loose]
        return (*wires, *(Wire(None, net) for net in nets.values()))
