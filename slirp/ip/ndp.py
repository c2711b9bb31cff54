"""Neighbour discovery: who on the VLAN has which IPv6 address, and our own answers.

What it does
* answers solicitations for the addresses that are ours (router, name server, fe80::2), each with its own MAC;
* defends them against a guest's duplicate address detection and unsolicited advertisements (at most once per
  ``DEFEND``; the answer to a detection always);
* learns a guest from any valid IPv6 frame that it sends, and from its solicitations and advertisements. An
  advertisement teaches nothing about who was not known, and without the override flag no new MAC (RFC 4861 7.2.5);
* remembers which addresses guests want (``wanted``: duplicate address detection has no source to be learnt), so
  that a redirection finds a guest that has said nothing since;
* asks for an address that a frame has to go to (see ``neighbours.py``);
* unreachability: an address that frames went to and that was not heard for ``REACHABLE`` is asked directly, ``PROBES``
  times a second apart; without an answer it is forgotten, and the next frame asks everybody. Any frame from it counts
  as a sign of life: on one wire, who is heard can hear.

It never learns own, multicast, unspecified or loopback addresses, nor a group MAC. Messages with a hop limit other than
255, a code, a bad option length or from nowhere are dropped, counted: they came from elsewhere (RFC 4861 11.2).

Limits: those of ``neighbours.py``; ``WANTED`` addresses. Timers: those, and one look at who was used per ``LOOK``.

Ref: RFC 4861 4.3, 4.4, 7; RFC 4862 5.4 (duplicate address detection); RFC 7527.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator

from ..wire import checksum
from ..wire.ipv4 import ETH_SRC, NO_MAC, PROTO_ICMPV6, ip_int
from ..wire.ipv6 import (
    ALL_NODES,
    ETH_IPV6,
    ETHERTYPE,
    ICMP6,
    LINK_LOCAL,
    NA_OVERRIDE,
    NA_ROUTER,
    NA_SOLICITED,
    ND_HOPS,
    ND_OPTIONS,
    ND_TARGET,
    NEIGHBOUR_ADVERTISEMENT,
    NEIGHBOUR_SOLICITATION,
    OPT_SOURCE,
    OPT_TARGET,
    SOLICITED,
    UNSPECIFIED,
    VERSION,
    group_mac,
    own_mac6,
    solicited_node,
)
from .neighbours import Neighbour, Neighbours

SECOND = 1_000_000_000
REACHABLE = 30 * SECOND
LOOK = 20 * SECOND
PROBE_GAP = SECOND
PROBES = 3
DEFEND = 10 * SECOND
NARROW = 600 * SECOND  # RFC 8201 4
WANTED = 256
OPTIONS = 16
_LINK_ADDRESS = 8  # bytes of an option with a MAC


def nd_options(body: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """(type, whole option) of ``body[at:]``. Raises ValueError: a length is wrong, or there are too many."""
    for _ in range(OPTIONS):
        if at == len(body):
            return
        size = body[at + 1] << 3 if at + 1 < len(body) else 0
        if not size or at + size > len(body):
            raise ValueError("bad option length")
        yield body[at], body[at : at + size]
        at += size
    if at < len(body):
        raise ValueError("too many options")


def link_address(body: bytes, at: int, kind: int) -> bytes | None:
    """The MAC of the option ``kind``, None: there is none. Raises ValueError."""
    found = None
    for option, whole in nd_options(body, at):
        if option == kind and found is None:
            if len(whole) != _LINK_ADDRESS:
                raise ValueError("not an Ethernet address")
            found = whole[2:]
    return found


class Ndp(Neighbours):
    """The IPv6 neighbours. ``own`` are our addresses."""

    counter = "ndp"

    def __init__(
        self,
        own: tuple[bytes, ...],
        inside: Callable[[bytes], bool],
        send: Callable[[bytes, bytes], bool],
        count: Callable[[str], None],
        now: int,
    ) -> None:
        super().__init__(send, count, now)
        self.own = own
        self.wanted: OrderedDict[bytes, bytes] = OrderedDict()  # address -> MAC, oldest first
        self._inside = inside
        self._look = now + LOOK
        self._probed: dict[bytes, tuple[int, int]] = {}  # address -> when to go on, tries
        self._defended = now - DEFEND
        self._narrow: OrderedDict[bytes, int] = OrderedDict()  # address -> until when its MTU is believed

    def learnable(self, address: bytes) -> bool:
        """Neither ours nor anything that no host has."""
        return not (address in self.own or address[0] == 0xFF or address[:15] == UNSPECIFIED[:15])

    def adopt(self, address: bytes) -> None:
        """One more address is ours."""
        self.own += (address,)
        self.table.pop(address, None)

    def abandon(self, address: bytes) -> None:
        """One less."""
        self.own = tuple(own for own in self.own if own != address)

    # ---- messages in ---------------------------------------------------------------------------------------

    def input(self, frame: bytes, body: bytes, hops: int, src: bytes, dst: bytes, now: int) -> None:
        """A solicitation or advertisement with a good checksum: ``body`` is the ICMPv6 message."""
        try:
            if hops != ND_HOPS or body[1] or len(body) < ND_OPTIONS:
                raise ValueError("not from this link")
            target = body[ND_TARGET:ND_OPTIONS]
            if target[0] == 0xFF:
                raise ValueError("a group has no owner")
            if body[0] == NEIGHBOUR_SOLICITATION:
                self._solicited(frame, body, src, dst, target, now)
            else:
                self._advertised(frame, body, src, dst, target, now)
        except ValueError:
            self._count("ndp_malformed")

    def _solicited(self, frame: bytes, body: bytes, src: bytes, dst: bytes, target: bytes, now: int) -> None:
        mac = link_address(body, ND_OPTIONS, OPT_SOURCE)
        if src == UNSPECIFIED:
            if mac is not None or not dst.startswith(SOLICITED):
                raise ValueError("malformed duplicate address detection")
            if target in self.own:
                self._count("ndp_conflict")
                self._advertise(target, ALL_NODES, group_mac(ALL_NODES), NA_ROUTER | NA_OVERRIDE)
            else:
                self._want(target, frame[ETH_SRC : ETH_SRC + 6])
            return
        if src in self.own:
            raise ValueError("from an address of ours")
        if mac is not None:
            self.learn(src, mac, now)
        if target in self.own:
            entry = self.lookup(src, now)
            to = frame[ETH_SRC : ETH_SRC + 6] if entry.mac == NO_MAC else entry.mac
            self._advertise(target, src, to, NA_ROUTER | NA_SOLICITED | NA_OVERRIDE)

    def _advertised(self, frame: bytes, body: bytes, src: bytes, dst: bytes, target: bytes, now: int) -> None:
        flags = ip_int(body[4:8])
        if src == UNSPECIFIED or (dst[0] == 0xFF and flags & NA_SOLICITED):
            raise ValueError("solicited by nobody")
        mac = link_address(body, ND_OPTIONS, OPT_TARGET) or frame[ETH_SRC : ETH_SRC + 6]
        if target in self.own:
            self._count("ndp_conflict")
            if now - self._defended >= DEFEND:
                self._defended = now
                self._advertise(target, ALL_NODES, group_mac(ALL_NODES), NA_ROUTER | NA_OVERRIDE)
            return
        entry = self.table.get(target)
        if entry is None:
            self._count("ndp_ignored")
        elif entry.mac == NO_MAC or entry.mac == mac or flags & NA_OVERRIDE:
            self.learn(target, mac, now)
            self._probed.pop(target, None)

    def _want(self, target: bytes, mac: bytes) -> None:
        if not self.learnable(target) or not self._inside(target) or mac[0] & 1:
            return
        self.wanted.pop(target, None)
        if len(self.wanted) >= WANTED:
            self.wanted.popitem(last=False)
        self.wanted[target] = mac

    # ---- messages out --------------------------------------------------------------------------------------

    def query(self, address: bytes) -> None:
        """Ask everybody who could have it."""
        group = solicited_node(address)
        self._ask_at(address, group, group_mac(group))

    def narrow(self, address: bytes, mtu: int, now: int) -> None:
        """Somebody on the way to a guest's address cannot carry more than ``mtu`` bytes: believed for ``NARROW``."""
        entry = self.table.get(address)
        if entry is not None and (not entry.mtu or mtu < entry.mtu):
            entry.mtu = mtu
            self._narrow[address] = now + NARROW

    def announce(self) -> None:
        """Unsolicited advertisements of our addresses: after the link came up, so that guests forget a predecessor."""
        for address in self.own:
            self._advertise(address, ALL_NODES, group_mac(ALL_NODES), NA_ROUTER | NA_OVERRIDE)

    def _ask_at(self, address: bytes, dst: bytes, mac: bytes) -> None:
        src = LINK_LOCAL
        option = bytes((OPT_SOURCE, 1)) + own_mac6(src)
        self._message(src, dst, mac, NEIGHBOUR_SOLICITATION, 0, address + option)

    def _advertise(self, target: bytes, dst: bytes, mac: bytes, flags: int) -> None:
        option = bytes((OPT_TARGET, 1)) + own_mac6(target)
        self._message(target, dst, mac, NEIGHBOUR_ADVERTISEMENT, flags, target + option)

    def _message(self, src: bytes, dst: bytes, mac: bytes, kind: int, flags: int, data: bytes) -> None:
        body = ICMP6.pack(kind, 0, 0, flags) + data
        field = checksum.checksum(body, ip_int(src + dst) + PROTO_ICMPV6 + len(body))
        body = ICMP6.pack(kind, 0, field, flags) + data
        head = ETH_IPV6.pack(
            mac, own_mac6(src), ETHERTYPE, VERSION, len(body), PROTO_ICMPV6, ND_HOPS, src, dst
        )
        self._send(head + body, b"")

    # ---- time ----------------------------------------------------------------------------------------------

    def next_deadline(self) -> int:
        """When ``run`` has something to do."""
        deadline = min(super().next_deadline(), self._look)
        return min(deadline, min((at for at, _ in self._probed.values()), default=deadline))

    def run(self, now: int) -> None:
        """Ask again, give up, age, look who is still there."""
        super().run(now)
        for address, (at, tries) in list(self._probed.items()):
            if at <= now:
                self._probe(address, tries, now)
        if now >= self._look:
            self._look = now + LOOK
            for address in [address for address, until in self._narrow.items() if until <= now]:
                del self._narrow[address]
                if address in self.table:
                    self.table[address].mtu = 0
            for entry in self.table.values():
                if entry.used and entry.mac != NO_MAC:
                    entry.used = False
                    if now - entry.heard >= REACHABLE and entry.address not in self._probed:
                        self._probe(entry.address, 0, now)

    def _probe(self, address: bytes, tries: int, now: int) -> None:
        """Ask an address itself whether it is still there."""
        entry: Neighbour | None = self.table.get(address)
        self._probed.pop(address, None)
        if entry is None or entry.mac == NO_MAC or now - entry.heard < REACHABLE:
            return
        if tries >= PROBES:
            self._count("ndp_unreachable")
            entry.mac = NO_MAC  # flows hold the entry: the next frame asks everybody
            return
        self._probed[address] = (now + PROBE_GAP, tries + 1)
        self._ask_at(address, address, entry.mac)
