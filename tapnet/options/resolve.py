"""All options together: defaults, who is wired to whom, and what contradicts what.

    Setup (entries in option order, scalars) --config()--> Config

Steps: defaults when nothing is given; hub ports resolved to VLANs; -netdev and -device paired; --mode
applied; old options put into the NATs; cards given their defaults; warnings collected.

A warning is for what works but is hardly meant (as QEMU has them): it never stops a start.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address
from typing import Any

from ..config import (
    Config,
    DumpNet,
    Endpoint,
    Filter,
    HostForward,
    Net,
    Nic,
    Smb,
    SocketNet,
    StreamNet,
    TapNet,
    Tftp,
    UserNet,
    VxlanNet,
    WsNet,
)
from ..errors import OptionError
from ..text import nearest
from . import converters as words
from . import nets
from . import nics as cards
from .given import Given
from .nics import Card, check_model, known_model

__all__ = ["Entry", "Setup", "check_model", "config", "known_model"]

DEFAULT_BRIDGE = "br0"
SWAP_LEASE, SWAP_RENEW = 120, 30  # seconds
_ANYWHERE = ("0.0.0.0", "::")  # an IPv6 listener hears IPv6 alone


@dataclass
class Entry:
    """One -net, -netdev, -device, -nic or -object."""

    option: str
    kind: str  # nic, none, hub, hubport, filter-dump, or a type of backend
    given: Given
    net: Net | None = None
    card: Given | None = None  # -nic: the card's side
    implicit: bool = False  # -nic without a type


@dataclass
class Setup:
    """Everything that was given, converted."""

    command: str = "run"
    words: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    mode: str | None = None
    machine: str = "pc"
    scalars: dict[str, Any] = field(default_factory=dict)
    monitors: list[Any] = field(default_factory=list)
    qmp: list[Any] = field(default_factory=list)
    redirs: list[tuple[str, HostForward]] = field(default_factory=list)
    old: dict[str, tuple[str, str]] = field(default_factory=dict)  # tftp, bootp, smb
    log_items: list[str] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    later: list[str] = field(default_factory=list)


@dataclass
class Hubport:
    """A -netdev hubport, until it is resolved."""

    given: Given
    user: str | None = None  # origin of what hangs on it


class Resolver:
    """The work of ``config``, step by step."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.warnings: list[str] = []
        self.unbuilt: list[str] = list(setup.later)
        self.members: list[Card | Net] = []
        self.hubports: dict[str, Hubport] = {}
        self.filters: list[Filter] = []
        self.switches: dict[int, bool] = {}

    def run(self) -> Config:
        """All steps in order."""
        entries = self.defaults()
        for entry in entries:
            self.enter(entry)
        self.wire()
        self.mode()
        self.beside()
        self.name_nets()
        self.old_options()
        self.forwards()
        loose = [member for member in self.members if isinstance(member, Card)]
        for card in loose:
            cards.check(card, self.setup.machine, self.setup.command)
        placed = iter(cards.place(loose, self.setup.command))
        members = tuple(next(placed) if isinstance(member, Card) else member for member in self.members)
        return self.finish(members)

    # -- defaults ----------------------------------------------------------------------------------------

    def defaults(self) -> list[Entry]:
        """The entries, with what is understood where they say nothing."""
        entries = self.setup.entries
        real = [e for e in entries if e.kind not in ("none", "hub", "filter-dump")]
        none = [e for e in entries if e.kind == "none"]
        if none and real:
            self.warnings.append(f"{none[0].given.origin}: means nothing beside other nets and cards")
        if not real:
            if none:
                return entries
            kind = "tap" if self.setup.mode == "tap" else "user"
            return [*entries, implied("nic", 0), implied(kind, 0)]
        if self.setup.command != "exec":
            return entries
        has_card = any(e.kind == "nic" or e.card is not None for e in real)
        backends = [e for e in real if e.net is not None or e.kind == "hubport"]
        vlans = [e.given.get("vlan", 0) for e in real if e.option == "net" and e.kind != "hubport"]
        if not has_card and vlans:
            return [implied("nic", vlans[0]), *entries]
        if not backends and self.setup.mode is None and vlans:
            return [*entries, implied("user", vlans[0])]
        return entries

    # -- one entry ---------------------------------------------------------------------------------------

    def enter(self, entry: Entry) -> None:
        """Sort one entry into members, hub ports, filters and switches."""
        given = entry.given
        self.warnings += given.warnings
        self.unbuilt += given.unbuilt
        if entry.kind == "hub":
            self.switches[given.get("vlan", 0)] = given.get("switch", False)
        elif entry.kind == "filter-dump":
            self.filters.append(_filter(given))
        elif entry.kind == "hubport" and entry.option != "nic":
            label = given.get("id") or given.get("name") or f"#hubport{len(self.hubports)}"
            if label in self.hubports:
                raise given.error(f"id={label}: given twice")
            self.hubports[label] = Hubport(given)
        elif entry.card is not None:
            self.pair(entry, entry.card)
        elif entry.kind == "nic":
            self.card(entry, given)
        elif entry.net is not None:
            vlan = given.get("vlan", 0) if entry.option == "net" else None
            self.members.append(
                replace(
                    entry.net,
                    id=given.get("id"),
                    name=given.get("name") or given.get("id") or "",
                    vlan=vlan,
                    impair=given.get("impair"),
                )
            )

    def card(self, entry: Entry, given: Given) -> None:
        """-net nic, -device."""
        netdev = given.get("netdev")
        if netdev is not None and "vlan" in given.values:
            raise given.error("netdev= and vlan= exclude each other")
        vlan = given.get("vlan")
        if vlan is None and netdev is None and entry.option == "net":
            vlan = 0
        self.members.append(Card(given, vlan, netdev))

    def pair(self, entry: Entry, card: Given) -> None:
        """-nic: a card and its backend on a wire of their own; or a card on the VLAN of a hubport."""
        self.unbuilt += card.unbuilt
        if entry.kind == "hubport":
            other = entry.given.get("netdev")
            if other is not None:
                raise card.error("netdev= is for -netdev hubport; here the card is what joins")
            self.members.append(Card(card, entry.given.get("hubid"), None))
            return
        net = entry.net
        if entry.implicit and self.setup.mode == "tap":
            net = TapNet(origin=entry.given.origin, name="", id=None, vlan=None, br=DEFAULT_BRIDGE)
        assert net is not None
        number = sum(isinstance(member, Card) for member in self.members)
        label = f"#nic{number}"
        net = replace(net, id=label, name=card.get("id") or "", impair=entry.given.get("impair"))
        self.members += [Card(card, None, label), net]

    # -- wires -------------------------------------------------------------------------------------------

    def netdevs(self) -> dict[str, int]:
        """id -> index of the private net. Raises OptionError for a doubled id."""
        found: dict[str, int] = {}
        seen: dict[str, str] = {label: port.given.origin for label, port in self.hubports.items()}
        for number, member in enumerate(self.members):
            if isinstance(member, Card) or member.id is None:
                continue
            if member.id in seen:
                raise OptionError(f"{member.origin}: id={member.id}: already given to {seen[member.id]}")
            seen[member.id] = member.origin
            if member.vlan is None:
                found[member.id] = number
        return found

    def wire(self) -> None:
        """Resolve hub ports and the netdev= of cards."""
        ids = self.netdevs()
        users: dict[str, str] = {}
        for port in self.hubports.values():
            target = port.given.get("netdev")
            if target is None:
                continue
            if target in self.hubports:
                raise port.given.error(f"netdev={target}: a hubport cannot join another hubport")
            number = self.find(port.given, target, ids, users)
            net = self.members[number]
            assert isinstance(net, Net)
            self.members[number] = replace(net, vlan=port.given.get("hubid"))
            port.user = net.origin
        for member in self.members:
            if not isinstance(member, Card) or member.netdev is None:
                continue
            hub = self.hubports.get(member.netdev)
            if hub is not None:
                if hub.user is not None:
                    raise member.given.error(f"netdev={member.netdev}: already used by {hub.user}")
                hub.user = member.given.origin
                member.vlan, member.netdev = hub.given.get("hubid"), None
            else:
                self.find(member.given, member.netdev, ids, users)
        for label, port in self.hubports.items():
            if port.user is None:
                self.warnings.append(f"{port.given.origin}: hub port {label} has no peer")
        for label, number in ids.items():
            if label not in users:
                net = self.members[number]
                assert isinstance(net, Net)
                self.warnings.append(f"{net.origin}: netdev {label} has no peer")

    def find(self, given: Given, label: str, ids: dict[str, int], users: dict[str, str]) -> int:
        """Index of netdev ``label``, claimed for ``given``."""
        if label not in ids:
            for member in self.members:
                if isinstance(member, Net) and member.id == label:
                    raise given.error(f"netdev={label}: that is on VLAN {member.vlan}, not a -netdev")
            near = nearest(label, [*(i for i in ids if i[0] != "#"), *self.hubports])
            raise given.error(f"netdev={label}: there is no such -netdev{near}")
        if label in users:
            raise given.error(f"netdev={label}: already used by {users[label]}")
        users[label] = given.origin
        return ids[label]

    # -- mode --------------------------------------------------------------------------------------------

    def mode(self) -> None:
        """--mode: unplug the other kind on each VLAN, and put the default in its place where none is."""
        mode = self.setup.mode
        if mode is None:
            return
        wanted: dict[int, bool] = {}  # VLAN -> has the kind that the mode wants
        wanting: set[int] = set()  # VLANs that shall have it
        others: Counter[int] = Counter()
        for number, member in enumerate(self.members):
            if isinstance(member, Card):
                if member.vlan is not None:
                    wanting.add(member.vlan)
                continue
            if isinstance(member, DumpNet):
                continue
            kind = mode_of(member)
            if kind is not None and member.vlan is None and kind != mode:
                self.warnings.append(f"{member.origin}: a private wire, --mode {mode} leaves it as it is")
            if member.vlan is None:
                continue
            if kind is None:
                others[member.vlan] += 1
            elif kind == mode:
                wanted[member.vlan] = True
            else:
                wanted.setdefault(member.vlan, False)
                self.members[number] = replace(member, plugged=False)
        for vlan in sorted(wanting | set(wanted)):
            if not wanted.get(vlan, vlan not in wanted and others[vlan] > 0):
                net = implied(mode, vlan).net
                assert net is not None
                self.members.append(replace(net, vlan=vlan))

    def beside(self) -> None:
        """A NAT that a TAP stands beside may be swapped away under its guests: they come to renew soon, and hear it then
        (``slirp.services.farewell``).
        """
        vlans = {m.vlan for m in self.members if isinstance(m, Net) and mode_of(m) == "tap"} - {None}
        for number, member in enumerate(self.members):
            if isinstance(member, UserNet) and member.vlan in vlans:
                self.members[number] = short_leases(member)

    def name_nets(self) -> None:
        """Give every net its name: name=, id=, or KIND.N."""
        used: dict[str, str] = {}
        for member in self.members:
            if isinstance(member, Net) and member.name:
                if member.name in used:
                    raise OptionError(
                        f"{member.origin}: name={member.name}: already {used[member.name]}'s name"
                    )
                used[member.name] = member.origin
        counts: Counter[str] = Counter()
        for number, member in enumerate(self.members):
            if isinstance(member, Card):
                continue
            name, count = member.name, counts[member.kind]
            counts[member.kind] += 1
            while not name:
                if f"{member.kind}.{count}" not in used:
                    name = f"{member.kind}.{count}"
                count += 1
            used[name] = member.origin
            changes: dict[str, Any] = {"name": name}
            if isinstance(member, DumpNet) and not member.file:
                changes["file"] = f"qemu-vlan{member.vlan or 0}.pcap"
            self.members[number] = replace(member, **changes)

    # -- the NATs ----------------------------------------------------------------------------------------

    def old_options(self) -> None:
        """-tftp, -bootp, -smb for every NAT that has none of its own; -redir for the first."""
        setup = self.setup
        users = [n for n, m in enumerate(self.members) if isinstance(m, UserNet)]
        for option, (origin, _) in setup.old.items():
            if not users:
                raise OptionError(f"{origin or '-' + option}: there is no -net user that it could belong to")
        for number in users:
            net = self.members[number]
            assert isinstance(net, UserNet)
            if "tftp" in setup.old and net.tftp is None:
                net = replace(net, tftp=Tftp(setup.old["tftp"][1]))
            if "smb" in setup.old and net.smb is None:
                net = replace(net, smb=Smb(setup.old["smb"][1]))
            if "bootp" in setup.old and net.dhcp.bootfile is None:
                net = replace(net, dhcp=replace(net.dhcp, bootfile=setup.old["bootp"][1]))
            self.members[number] = net
        if not setup.redirs:
            return
        if not users:
            raise OptionError(f"{setup.redirs[0][0]}: there is no -net user that it could belong to")
        first = self.members[users[0]]
        assert isinstance(first, UserNet)
        for origin, forward in setup.redirs:
            nets.check_forward(Given(origin), forward, first.v4, first.v6, "")
        rules = tuple(forward for _, forward in setup.redirs)
        self.members[users[0]] = replace(first, forwards=first.forwards + rules)

    def forwards(self) -> None:
        """One host port has one owner."""
        taken: dict[tuple[str, str], list[tuple[str, range, str]]] = {}
        for member in self.members:
            if not isinstance(member, UserNet):
                continue
            for forward in member.forwards:
                listen = forward.listen
                if isinstance(listen, Endpoint):
                    anywhere = "::" if isinstance(forward.guest, IPv6Address) else "0.0.0.0"
                    host, ports = listen.host or anywhere, range(listen.port, listen.port + forward.count)
                    if not listen.port:
                        continue
                else:
                    host, ports = listen.path, range(1)
                mine = taken.setdefault((forward.protocol, ""), [])
                for other, used, text in mine:
                    everybody = other in _ANYWHERE or host in _ANYWHERE
                    same = other == host or (everybody and (":" in other) == (":" in host))
                    if same and ports.start < used.stop and used.start < ports.stop:
                        raise OptionError(f"{member.origin}: {forward.option}{forward.text}: taken by {text}")
                mine.append((host, ports, forward.text))

    # -- the end -----------------------------------------------------------------------------------------

    def finish(self, members: tuple[Nic | Net, ...]) -> Config:
        """The ``Config``, with its warnings."""
        setup, scalars = self.setup, self.setup.scalars
        self.terminals()
        made = Config(
            mode=setup.mode,
            machine=setup.machine,
            memory=scalars.get("m", 64 << 20),
            name=scalars.get("name"),
            members=members,
            monitors=tuple(setup.monitors),
            qtest=scalars.get("qtest"),
            qmp=tuple(setup.qmp),
            metrics=scalars.get("metrics"),
            filters=tuple(self.filters),
            switches=tuple(sorted(vlan for vlan, on in self.switches.items() if on)),
            log_items=tuple(setup.log_items),
            log_file=scalars.get("D"),
            runas=scalars.get("runas"),
            ready_fd=scalars.get("ready-fd"),
            keep_uid=scalars.get("keep-uid", False),
            command=setup.words,
            files=setup.files,
        )
        names = {name for m in members for name in (m.name, m.id) if name}
        for item in self.filters:
            if item.netdev not in names:
                near = nearest(item.netdev, names)
                raise OptionError(f"{item.origin}: netdev={item.netdev}: there is no such member{near}")
        warnings = [*self.warnings, *vlan_warnings(made), *nic_warnings(made, setup.command)]
        return replace(made, warnings=tuple(warnings), unbuilt=tuple(dict.fromkeys(self.unbuilt)))

    def terminals(self) -> None:
        """One terminal, one owner."""
        qtest = self.setup.scalars.get("qtest")
        devices = [*self.setup.monitors, *self.setup.qmp, *([qtest] if qtest else [])]
        users = [device for device in devices if device.address is None]
        if users and self.setup.command == "exec":
            raise OptionError(f"{users[0].origin}: the terminal belongs to COMMAND (use unix:PATH)")
        if len(users) > 1:
            raise OptionError(f"{users[1].origin}: the terminal belongs to {users[0].origin}")


def config(setup: Setup) -> Config:
    """What ``setup`` means as a whole. Raises OptionError."""
    return Resolver(setup).run()


def implied(kind: str, vlan: int) -> Entry:
    """An entry for what nobody wrote."""
    given = Given(f"-net {kind}", {"vlan": vlan})
    if kind == "nic":
        return Entry("net", "nic", given)
    if kind == "tap":
        given.values["br"] = DEFAULT_BRIDGE
    return Entry("net", kind, given, nets.make(kind, given))


def short_leases(net: UserNet) -> UserNet:
    """A NAT that may be swapped away: ``SWAP_LEASE`` seconds unless lease-time= says otherwise, T1 ``SWAP_RENEW``."""
    dhcp = net.dhcp
    lease = dhcp.lease_time if dhcp.lease_given else SWAP_LEASE
    return replace(net, dhcp=replace(dhcp, lease_time=lease, renew_time=SWAP_RENEW))


def mode_of(net: Net) -> str | None:
    """Which --mode a backend belongs to; None: to none."""
    if isinstance(net, UserNet):
        return "user"
    return "tap" if isinstance(net, TapNet | VxlanNet) else None


def _filter(given: Given) -> Filter:
    return Filter(
        origin=given.origin,
        id=given.get("id"),
        netdev=given.get("netdev"),
        file=given.get("file"),
        maxlen=given.get("maxlen", 65536),
        queue=given.get("queue", "all"),
        status=given.get("status", "on") == "on",
    )


def many_clients(net: Net) -> bool:
    """Whether one backend brings several members of its own."""
    if isinstance(net, SocketNet):
        return net.listen is not None or net.mcast is not None
    return isinstance(net, WsNet) or (isinstance(net, StreamNet) and net.server)


def vlan_warnings(made: Config) -> list[str]:
    """VLANs on which nothing can happen, and what is there twice."""
    found = []
    for vlan, members in made.vlans.items():
        nics = [m for m in members if isinstance(m, Nic)]
        live = [m for m in members if isinstance(m, Net) and m.plugged and not isinstance(m, DumpNet)]
        if nics and not live:
            what = "a card" if len(nics) == 1 else f"{len(nics)} cards"
            found.append(
                f"VLAN {vlan} has {what} and nothing else (-net user,vlan={vlan} would join it to the host)"
            )
        elif not nics and len(live) < 2 and not any(many_clients(net) for net in live):
            found.append(f"VLAN {vlan} has no card")
        macs: dict[bytes, Nic] = {}
        for nic in nics:
            if nic.mac in macs:
                found.append(
                    f"VLAN {vlan}: {macs[nic.mac].name} and {nic.name} have the same MAC "
                    f"{words.mac_text(nic.mac)}"
                )
            macs.setdefault(nic.mac, nic)
        hosts: dict[object, UserNet] = {}
        for net in live:
            if isinstance(net, UserNet) and net.v4 is not None:
                if net.v4.host in hosts:
                    found.append(
                        f"VLAN {vlan}: {hosts[net.v4.host].name} and {net.name} are both {net.v4.host}"
                    )
                hosts.setdefault(net.v4.host, net)
    return found


def nic_warnings(made: Config, command: str) -> list[str]:
    """Cards without a peer or a guest."""
    found = [
        f"{nic.origin}: {nic.name} has no peer"
        for nic in made.nics
        if nic.vlan is None and nic.netdev is None
    ]
    loose = [nic for nic in made.nics if nic.netns is None and nic.vfio_user is None]
    if command == "run" and loose and made.qtest is None:
        found.append(
            f"no guest is attached to {loose[0].name}: use netns=PATH|PID or vfio-user=PATH of -net nic, "
            "or -qtest, or tapnet exec"
        )
    return found
