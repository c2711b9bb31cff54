"""Fuzz IPv6 of the user-mode network: ``python -m tests.fuzz.fuzz_slirp6 [--seconds N] [--seed S]``.

Each case makes one stack of both families with a fake host and throws a random script at it: neighbour discovery, router
solicitations, DHCPv6, echo, errors, UDP, TCP, extension headers in any order, fragments that fit or overlap, all of it
mutated and cut, with checksums mended or not; datagrams and errors from the host; a wire that fills up; clients of
redirections; time. The parsers beside the stack (extension headers, options, DHCPv6, what a guest's kernel tells) get
rubbish of their own. A finding is any exception, a frame that is not whole, a host socket for a forbidden destination,
something still held after ``HOURS``, or a call that takes longer than ``SLOW`` seconds.
"""

from __future__ import annotations

import errno
import random
import struct
import sys
import time
from collections.abc import Sequence

from slirp.config import Config
from slirp.config6 import Config6
from slirp.contracts.host import Echo
from slirp.forward.tcp import Rule
from slirp.ip.ndp import link_address, nd_options
from slirp.wire import checksum
from slirp.wire import dhcp as formats
from slirp.wire import dhcpv6 as dhcpv6_wire
from slirp.wire import ipv4 as wire
from slirp.wire import ipv6 as wire6
from slirp.wire.ipv6_extensions import walk
from tapnet.guest.namespace import address6
from tests.fuzz import runner
from tests.fuzz.runner import Done
from tests.slirp.fakes import GUEST_MAC, FakeClient, FakeError, arp
from tests.slirp.fakes6 import (
    DNS_MAC6,
    LOCAL,
    ROUTER_MAC,
    Net6,
    icmp6,
    ip6,
    na,
    ns,
    option,
    ping6,
    rs,
    summed,
    udp6,
    udp6_body,
)

STEPS = 120
SLOW = 1.0  # seconds for one call
HOURS = 3  # in which all that can expire has expired
MACS = (GUEST_MAC, bytes.fromhex("525400000001"), bytes.fromhex("020000000002"))
GUESTS = (
    *("fec0::15", "fec0::16", LOCAL, "fec0::1000", "2001:db8:9::5") * 3,
    *("::", "::", "fec0::2", "fe80::2", "::1", "ff02::1"),
)
PLACES = (
    "fec0::2",
    "fec0::3",
    "fe80::2",
    "fec0::16",
    "fec0::",
    "2001:db8::9",
    "::1",
    "::",
    "::ffff:127.0.0.1",
    "fe80::77",
    "ff02::1",
    "ff02::2",
    "ff02::1:2",
    "ff05::1:3",
    "ff02::1:ff00:2",
)
PORTS = (53, 547, 546, 69, 9, 4000, 0)
REMOTES = (("2001:db8::9", 9), ("::1", 9), ("fec0::15", 1), ("fe80::1%lo", 7), ("192.0.2.1", 7))
CONFIGS = (
    Config(v6=Config6()),
    Config(v6=Config6(), mtu=1280),
    Config(v6=Config6(), restrict=True),
    Config(v6=Config6(), hostloopback=False, mtu=9000),
    Config(v6=Config6("fec0::/120"), ipv4=False, dnssearch=("a.example", "b.a.example"), lease_time=60),
    Config(v6=Config6(ntp=("2001:db8::7b",)), bootfile="x.efi", tftp="/srv"),
)


def dhcp(rng: random.Random) -> bytes:
    """A DHCPv6 message, more or less."""
    kind = rng.randrange(14)
    parts = [bytes((kind,)) + rng.randbytes(3)]
    if rng.random() < 0.6:
        parts.append(dhcpv6_wire.option(1, rng.choice((b"\0\3\0\1guest", b"\0\3\0\1other"))))
        if kind in (3, 5, 8, 9):
            parts.append(dhcpv6_wire.option(2, b"\0\3\0\1" + ROUTER_MAC))
        address = wire.ip_bytes(rng.choice(("fec0::1000", "fec0::1001", "fec0::9", "2001:db8::1")))
        inner = rng.choice((b"", dhcpv6_wire.option(5, address + bytes(8))))
        parts.append(dhcpv6_wire.option(rng.choice((3, 3, 3, 4, 25)), b"\0\0\0\1" + bytes(8) + inner))
        if rng.random() < 0.5:
            return b"".join(parts)
    for _ in range(rng.randrange(6)):
        code = rng.choice((1, 2, 3, 4, 6, 14, 25, 39, 99))
        value = rng.randbytes(rng.choice((0, 2, 4, 10, 14)))
        if code == 2 and rng.random() < 0.6:
            value = b"\0\3\0\1" + ROUTER_MAC
        if code in (3, 25):
            address = wire.ip_bytes(rng.choice(("fec0::1000", "fec0::1001", "fec0::2", "2001:db8::1")))
            inner = dhcpv6_wire.option(5, address + bytes(8)) if rng.random() < 0.7 else rng.randbytes(5)
            value = rng.choice((b"\0\0\0\1", b"\0\0\0\2")) + bytes(8) + inner
        parts.append(dhcpv6_wire.option(code, value))
    return b"".join(parts)


def extensions(rng: random.Random) -> list[tuple[int, bytes]]:
    """A chain of headers, most of them sound."""
    found = []
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 3, 9))):
        kind = rng.choice((0, 43, 44, 51, 60, 60))
        body = b"\0\0\1\4\0\0\0\0"
        if kind == 43:
            body = bytes((0, rng.choice((0, 0, 2)), rng.randrange(5), rng.choice((0, 0, 1)))) + bytes(4)
        elif kind == 44:
            offset = rng.choice((0, 0, 8, 16, 65528)) | rng.randrange(2)
            body = wire6.FRAGMENT_HEADER.pack(0, 0, offset, rng.choice((1, 2, 3)))
        elif kind == 51:
            body = b"\0\2" + bytes(14)
        elif rng.random() < 0.3:
            body = b"\0\0" + rng.randbytes(6)
        found.append((kind, body))
    return found


def sound(rng: random.Random) -> bytes:
    """A frame that makes sense."""
    mac, src, dst = rng.choice(MACS), rng.choice(GUESTS), rng.choice(PLACES)
    to = rng.choice((None, None, None, ROUTER_MAC, DNS_MAC6, b"\x33\x33\0\0\0\1"))
    common = {"mac": mac, "to": to}
    hops = rng.choice((64, 64, 2, 1, 0, 255))
    data = rng.randbytes(rng.choice((0, 1, 20, 100, 1400)))
    kind = rng.randrange(9)
    if kind == 0:
        return ns(rng.choice(PLACES), src=src, mac=mac, hops=rng.choice((255, 255, 255, 64)))
    if kind == 1:
        return na(rng.choice(PLACES + GUESTS), src=src, mac=mac, flags=rng.getrandbits(3) << 29)
    if kind == 2:
        return rs(rng.choice((LOCAL, "::", "fec0::15")), mac=mac)
    if kind == 3:
        return udp6(
            rng.choice(("ff02::1:2", "fec0::2", "ff05::1:3")), 547, dhcp(rng), src=src, sport=546, **common
        )
    if kind == 4:
        return ping6(dst, data, src=src, hops=hops, extensions=extensions(rng), **common)
    if kind == 5:
        inner = ip6(rng.choice(PLACES), src, rng.choice((6, 17)), b"\0\x09\x0f\xa0\0\x08\0\0" + bytes(12))[
            14:
        ]
        return icmp6(
            src, dst, rng.randrange(6), rng.randrange(5), rng.choice((0, 68, 1280, 1400)), inner, **common
        )
    if kind == 6:
        head = rng.randbytes(12) + bytes((0x50, rng.choice((2, 16, 17, 4, 24)))) + rng.randbytes(6)
        body = summed(src, dst, 6, head + data, 16)
        return ip6(
            src, dst, rng.choice((6, 6, 6, 41, 132)), body, hops=hops, extensions=extensions(rng), **common
        )
    if kind == 7:
        body = udp6_body(src, dst, rng.choice((4000, 4001, 0)), rng.choice(PORTS), data)
        return ip6(src, dst, 17, body, hops=hops, extensions=extensions(rng), **common)
    offset = rng.choice((0, 0, 8, 16, 24, 1400)) | rng.randrange(2)
    head = wire6.FRAGMENT_HEADER.pack(0, 0, offset, rng.choice((1, 2, 3)))
    return ip6(
        src,
        dst,
        rng.choice((17, 58)),
        rng.randbytes(rng.choice((8, 16, 24, 7))),
        extensions=[(44, head)],
        **common,
    )


def spoilt(rng: random.Random, frame: bytes) -> bytes:
    """The frame, or what a bad day made of it."""
    if rng.random() < 0.5:
        return frame
    out = bytearray(frame)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(min(len(out), 300))
        out[at] = rng.choice((0, 1, 44, 58, 60, 0xFF, rng.randrange(256)))
    if rng.random() < 0.15:
        del out[rng.randrange(len(out) + 1) :]
    if rng.random() < 0.5 and len(out) > 58 and out[20] == 58:  # past the checksum
        src_dst, body = bytes(out[22:54]), bytes(out[54:56]) + b"\0\0" + bytes(out[58:])
        value = checksum.checksum(body, wire.ip_int(src_dst) + 58 + len(body))
        out[56:58] = value.to_bytes(2, "big")
    return bytes(out)


def parsers(rng: random.Random) -> None:
    """Rubbish for what reads bytes on its own."""
    data = rng.randbytes(rng.randrange(200))
    walk(bytes(54) + data, rng.choice((0, 43, 44, 51, 59, 60)), 54, 54 + len(data))
    for call in (
        lambda: list(nd_options(data, 0)),
        lambda: link_address(data, 0, 1),
        lambda: dhcpv6_wire.parse(data),
    ):
        try:
            call()
        except ValueError:
            pass
    body = (
        struct.pack("=BxHiBBHI", 10, rng.randrange(100), 2, 134, 0, 0, 0)
        + option(rng.choice((25, 31)), data[:6])
        + data
    )
    address6.option_of(body)
    for kind, inner in address6.messages(struct.pack("=IHHII", rng.randrange(80), 20, 0, 0, 0) + data):
        if kind == 20:
            address6.address_of(inner)


class Script:
    """One stack and one script."""

    def __init__(self, seed: int, done: Done) -> None:
        self.rng = random.Random(seed)
        self.done = done
        self.net = Net6(self.rng.choice(CONFIGS), known=self.rng.random() < 0.7)
        self.net.host.control.add(("2001:db8::9", 4000))
        for number, guest in enumerate((None, wire.ip_bytes("fec0::15"), GUEST_MAC, "name")):
            for protocol in ("tcp", "udp"):
                self.net.stack.forwards.add(Rule(protocol, ("::1", 5000 + number), guest, 22))

    def play(self) -> int:
        """Raises what should not be raised."""
        rng, net = self.rng, self.net
        net.put(arp(1, "10.0.2.15", "10.0.2.2"))
        for _ in range(STEPS):
            before = time.process_time()
            self.step(rng.random())
            assert time.process_time() - before < SLOW, "a call was slow"
            self.check()
        net.full = False
        net.stack.tx_ready(net.now)
        for _ in range(HOURS):
            net.run(3600)
            self.check()
        side = net.stack.side6
        assert side is not None
        assert not len(net.stack.udp) and not len(net.stack.echoes) and not len(net.stack.dns), "flows left"
        assert not len(side.ip.fragments) and not side.ip.fragments.bytes, "fragments left"
        assert len(side.ndp.table) <= 1024, "neighbours"
        net.stack.close(net.now)
        assert all(sock.closed for sock in [*net.host.udps, *net.host.tcps, *net.host.echoes]), "sockets left"
        self.done.update(net.stack.counters)
        return STEPS

    def step(self, dice: float) -> None:
        """One thing that happens."""
        rng, net = self.rng, self.net
        if dice < 0.7:
            vnet = b""
            if rng.random() < 0.2:
                vnet = wire.VNET.pack(
                    rng.randrange(4), rng.choice((0, 4, 5, 255)), 0, rng.choice((0, 1, 500, 65535)), 54, 6
                )
            net.put(spoilt(rng, sound(rng)), vnet=vnet)
        elif dice < 0.8:
            self.host()
        elif dice < 0.84:
            listener = rng.choice(list(net.host.listeners.values()))
            listener.call(
                net.now, FakeClient((rng.choice(REMOTES)[0], rng.randrange(1, 65536)), ("::1", 5000))
            )
            udp = rng.choice(list(net.host.udp_listeners.values()))
            udp.call(net.now, rng.randbytes(rng.choice((1, 3000))), rng.choice(REMOTES), "::1")
            del udp.sent[:]
        elif dice < 0.9:
            net.run(rng.choice((0.01, 0.5, 2, 20, 300)))
        elif dice < 0.95:
            net.full = not net.full
            if not net.full:
                net.stack.tx_ready(net.now)
        elif dice < 0.97:
            net.stack.set_features(rng.choice((0, 1, 0x67)))
            net.host.limit = rng.choice((1, 5, 1 << 30))
            net.host.no_echo = rng.choice((0, 0, errno.EPERM, errno.EMFILE))
        else:
            net.stack.info()
            net.stack.leases()
            formats.describe(spoilt(rng, sound(rng)))
            parsers(rng)

    def host(self) -> None:
        """A datagram, a reply or an error from the world."""
        rng, net = self.rng, self.net
        kind, code = rng.choice(((1, 4), (3, 0), (2, 0), (1, 1), (4, 1)))
        offender = rng.choice((None, "2001:db8::9", "::1", "fe80::1", "192.0.2.1"))
        data = rng.randbytes(rng.choice((0, 10, 100, 3000, 60000)))
        socks = [sock for sock in net.host.udps if not sock.closed]
        if socks and rng.random() < 0.6:
            sock = rng.choice(socks)
            remote = rng.choice((*REMOTES, sock.sent[-1][1]) if sock.sent else REMOTES)
            if rng.random() < 0.3:
                net.complain(
                    sock, FakeError(errno.ECONNREFUSED, kind, code, 1400, offender, remote, data[:500])
                )
            else:
                net.deliver(sock, data, remote)
        echoes = [echo for echo in net.host.echoes if not echo.closed]
        if echoes:
            echo = rng.choice(echoes)
            seq = echo.sent[-1][0] if echo.sent else 1
            remote6 = echo.sent[-1][2] if echo.sent else "2001:db8::9"
            if rng.random() < 0.5:
                echo.inbox.append(
                    Echo(seq, data[:3000], remote6, rng.choice((0, 1, 64, 255)), rng.randrange(256))
                )
            else:
                quote = wire6.ICMP6.pack(128, 0, 0, seq) + data[:20]
                echo.errors.append(
                    FakeError(errno.EHOSTUNREACH, kind, code, 1400, offender, (remote6, 0), quote, 9)
                )
            echo.events.host_readable(net.now)

    def check(self) -> None:
        """What was sent is whole; nobody reached what is forbidden."""
        net = self.net
        for frame, vnet in net.sent:
            assert type(frame) is bytes and len(frame) >= 34, "not a frame"
            assert len(vnet) in (0, 10), "not a vnet header"
            assert frame[6:8] in (wire.MAC_PREFIX, wire6.MAC_PREFIX6), "not our MAC"
            assert frame[:6] != bytes(6) and frame[:2] not in (wire.MAC_PREFIX, wire6.MAC_PREFIX6), (
                "to nobody"
            )
            if frame[12:14] == wire.TYPE_IPV6:
                length = wire.U16.unpack_from(frame, 18)[0]
                assert length == len(frame) - 54, "length"
                assert vnet or length + 40 <= net.config.mtu, "beyond the MTU"
                assert frame[22] != 0xFF, "from a group"
                if frame[20] == 58 and net.config.v6 is not None and frame[22:38] in net.config.v6.own:
                    start = wire.ip_int(frame[22:54]) + 58 + length
                    assert checksum.good(frame[54:], start), "checksum"
        net.sent.clear()
        for sock in net.host.udps:
            for _, remote, how in sock.sent:
                assert 1 <= how & 0xFF <= 255 and not how >> 24, "hop limit"
                self.allowed(remote)
            del sock.sent[:-1]
        for echo in net.host.echoes:
            for _, _, where, _ in echo.sent:
                self.allowed((where, 0))
                assert where != "::1", "loopback"
            del echo.sent[:-1]
        for tcp in net.host.tcps:
            self.allowed(tcp.remote)

    def allowed(self, remote: tuple[str, int]) -> None:
        """Whether a host socket may have been pointed there."""
        assert remote not in self.net.host.control, "control plane"
        address = wire.ip_bytes(remote[0])
        assert remote[0] == "::1" or (not wire6.is_martian6(address) and address[0] != 0xFF), "martian"
        assert remote[0] != "::1" or self.net.config.hostloopback, "loopback"
        assert not self.net.config.restrict, "restrict"


def case(seed: int, done: Done) -> int:
    """One script."""
    return Script(seed, done).play()


def main(argv: Sequence[str] | None = None) -> int:
    """Run scripts until the time is over."""
    return runner.main("fuzz_slirp6", case, argv)


if __name__ == "__main__":
    sys.exit(main())
