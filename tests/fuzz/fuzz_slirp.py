"""Fuzz the user-mode network: ``python -m tests.fuzz.fuzz_slirp --seconds N [--seed S]``.

Each round makes one stack with a fake host and throws a random script at it: frames of every protocol,
mutated, cut and with their checksums mended or not, with and without a vnet header; datagrams, answers and
errors from the host; a wire that fills up; time. A finding is any exception, a frame that is not whole, an
answer to the wrong MAC, a host socket for a forbidden destination, something still held after a day, or a
call that takes longer than ``SLOW`` seconds. It is printed with its seed, which repeats it alone, and the
exit status is 1."""

from __future__ import annotations

import argparse
import errno
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence

from slirp.config import Config
from slirp.contracts.host import Echo
from slirp.wire import checksum
from slirp.wire import dhcp as formats
from slirp.wire import ipv4 as wire
from tests.slirp.fakes import (
    BROADCAST,
    DNS_MAC,
    GUEST_MAC,
    HOST_MAC,
    FakeEcho,
    FakeError,
    Net,
    arp,
    icmp,
    ip4,
    ping,
    udp,
)
from tests.slirp.services.test_dhcp import query
from tests.slirp.services.test_dns import answer, question

STEPS = 120
SLOW = 1.0  # seconds for one call
DAY = 86_400
MACS = (GUEST_MAC, bytes.fromhex("525400000001"), bytes.fromhex("020000000002"))
GUESTS = ("10.0.2.15", "10.0.2.16", "10.0.2.99", "172.16.5.5", "0.0.0.0", "10.0.2.2", "127.0.0.1")
PLACES = (
    "10.0.2.2",
    "10.0.2.3",
    "10.0.2.16",
    "10.0.2.200",
    "192.0.2.1",
    "127.0.0.1",
    "0.0.0.0",
    "169.254.169.254",
    "224.0.0.251",
    "255.255.255.255",
    "10.0.2.255",
)
PORTS = (53, 67, 69, 9, 4000, 65535, 0)
REMOTES = (("192.0.2.1", 9), ("127.0.0.1", 9), ("10.0.2.15", 1), ("192.0.2.53", 53), ("2001:db8::1", 7))
CONFIGS = (
    Config(),
    Config(mtu=576),
    Config(restrict=True),
    Config(hostloopback=False, mtu=9000),
    Config(net="10.0.0.0/8", host="10.0.2.2", dns="10.0.2.3", dhcpstart="10.0.2.15"),
    Config(dhcpstart="10.0.2.253", lease_time=60, dnssearch=("a.example", "b.a.example")),
)


def sound(rng: random.Random) -> bytes:
    """A frame that makes sense."""
    mac, src, dst = rng.choice(MACS), rng.choice(GUESTS), rng.choice(PLACES)
    to = rng.choice((HOST_MAC, HOST_MAC, HOST_MAC, DNS_MAC, BROADCAST))
    common = {"mac": mac, "to": to, "ttl": rng.choice((64, 64, 2, 1, 0, 255))}
    kind = rng.randrange(8)
    data = rng.randbytes(rng.choice((0, 1, 20, 100, 1400)))
    if kind == 0:
        return arp(rng.choice((1, 2, 3)), src, dst, sha=mac)
    if kind == 1:
        return ping(dst, data, src=src, **common)
    if kind == 2:
        return udp(dst, rng.choice(PORTS), data, src=src, sport=rng.choice((4000, 4001, 68, 0)), **common)
    if kind == 3:
        text = question(rng.choice(("a.example", "b")), rng.randrange(3), rng.random() < 0.5)
        return udp("10.0.2.3", 53, text, src=src, **common)
    if kind == 4:
        options = {55: rng.randbytes(rng.randrange(1, 20))} if rng.random() < 0.5 else {}
        if rng.random() < 0.6:
            options[50] = wire.ip_bytes(
                rng.choice(("10.0.2.15", "10.0.2.16", "10.0.2.99", "10.0.2.254", "1.2.3.4"))
            )
        if rng.random() < 0.3:
            options[54] = wire.ip_bytes(rng.choice(("10.0.2.2", "10.0.2.9")))
        if rng.random() < 0.2:
            options[57] = rng.choice((0, 300, 576, 1500, 65535)).to_bytes(2, "big")
        ciaddr = rng.choice(("0.0.0.0", "0.0.0.0", "10.0.2.15", "10.0.2.16"))
        giaddr = rng.choice(("0.0.0.0",) * 5 + ("10.0.2.99", "192.168.0.1"))
        client = rng.choice((mac, mac, rng.randbytes(6)))
        flags = rng.choice((0, 0x8000))
        return query(
            rng.choice((None, *range(9))),
            options,
            mac=client,
            src=src,
            ciaddr=ciaddr,
            giaddr=giaddr,
            flags=flags,
        )
    if kind == 5:
        inner = ip4(rng.choice(PLACES), src, 17, b"\0\x09\x0f\xa0\0\x08\0\0")[14:]
        return ip4(src, dst, 1, icmp(rng.choice((3, 4, 5, 11, 12)), rng.randrange(5), 0, inner), **common)
    if kind == 6:
        segment = rng.randbytes(12) + bytes((0x50, rng.choice((2, 16, 17, 4, 24)))) + rng.randbytes(6)
        return ip4(src, dst, rng.choice((6, 6, 6, 2, 41, 132)), segment + data, **common)
    flags = rng.choice((0x2000, 0x2000 | 2, 4, 8191, 0x2000 | 1))
    return ip4(
        src, dst, rng.choice((17, 1)), rng.randbytes(rng.choice((8, 16, 24, 7))), flags=flags, **common
    )


def spoilt(rng: random.Random, frame: bytes) -> bytes:
    """The frame, or what a bad day made of it."""
    if rng.random() < 0.5:
        return frame
    out = bytearray(frame)
    for _ in range(rng.randrange(1, 4)):
        if out:
            out[rng.randrange(min(len(out), 360))] = rng.choice(
                (0, 1, 4, 0x45, 0x7F, 0xFF, rng.randrange(256))
            )
    if rng.random() < 0.15:
        del out[rng.randrange(len(out) + 1) :]
    if rng.random() < 0.7 and len(out) >= 34:  # past the header's checksum
        out[24:26] = b"\0\0"
        out[24:26] = checksum.checksum(bytes(out[14:34])).to_bytes(2, "big")
    return bytes(out)


class Round:
    """One stack and one script."""

    def __init__(self, seed: int, seen: Counter[str]) -> None:
        self.rng = random.Random(seed)
        self.net = Net(self.rng.choice(CONFIGS), known=self.rng.random() < 0.7)
        self.net.host.control.add(("192.0.2.1", 4000))
        self.seen = seen

    def play(self) -> None:
        """Raises what should not be raised."""
        rng, net = self.rng, self.net
        for _ in range(STEPS):
            before = time.process_time()
            self.step(rng.random())
            assert time.process_time() - before < SLOW, "a call was slow"
            self.check()
        net.full = False
        net.stack.tx_ready(net.now)
        net.run(DAY)
        self.check()
        assert not len(net.stack.udp), "flows left"
        assert not len(net.stack.echoes), "pings left"
        assert not len(net.stack.dns), "queries left"
        assert not len(net.stack.ipv4.fragments), "fragments left"
        assert net.stack.ipv4.fragments.bytes == 0, "fragment bytes left"
        net.stack.close(net.now)
        assert all(sock.closed for sock in [*net.host.udps, *net.host.tcps, *net.host.echoes]), "sockets left"
        self.seen.update(net.stack.counters)

    def step(self, dice: float) -> None:
        """One thing that happens."""
        rng, net = self.rng, self.net
        if dice < 0.7:
            vnet = b""
            if rng.random() < 0.2:
                vnet = wire.VNET.pack(
                    rng.randrange(4), rng.choice((0, 1, 5, 255)), 0, rng.choice((0, 1, 500, 65535)), 34, 6
                )
            net.put(spoilt(rng, sound(rng)), vnet=vnet)
        elif dice < 0.85:
            socks = [sock for sock in net.host.udps if not sock.closed]
            if socks:
                sock = rng.choice(socks)
                data = rng.randbytes(rng.choice((0, 10, 100, 3000)))
                if sock.sent and rng.random() < 0.4:
                    data = answer(sock.sent[-1][0].ljust(12, b"\0"), rng.randrange(6))
                remote = rng.choice((*REMOTES, sock.sent[-1][1]) if sock.sent else REMOTES)
                if rng.random() < 0.3:
                    kind, code = rng.choice(((3, 3), (11, 0), (3, 4), (3, 1)))
                    offender = rng.choice((None, "192.0.2.1", "127.0.0.1", "::1", "198.51.100.9"))
                    error = FakeError(errno.ECONNREFUSED, kind, code, 1400, offender, remote, data[:500])
                    net.complain(sock, error)
                else:
                    net.deliver(sock, data, remote)
        elif dice < 0.87:
            echoes = [echo for echo in net.host.echoes if not echo.closed]
            net.host.no_echo = rng.choice((0, 0, 0, errno.EPERM, errno.EMFILE))
            if echoes:
                self.echo(rng.choice(echoes))
        elif dice < 0.9:
            net.run(rng.choice((0.01, 0.5, 2, 20, 300)))
        elif dice < 0.95:
            net.full = not net.full
            if not net.full:
                net.stack.tx_ready(net.now)
        elif dice < 0.97:
            net.stack.set_features(rng.choice((0, 1, 0x67)))
            net.host.limit = rng.choice((1, 5, 1 << 30))
        else:
            net.stack.info()
            net.stack.leases()
            formats.describe(spoilt(rng, sound(rng)))

    def echo(self, sock: FakeEcho) -> None:
        """A reply or an error for a flow of pings."""
        rng = self.rng
        seq = sock.sent[-1][0] if sock.sent and rng.random() < 0.8 else rng.getrandbits(16)
        remote = sock.sent[-1][2] if sock.sent and rng.random() < 0.8 else rng.choice(REMOTES)[0]
        data = rng.randbytes(rng.choice((0, 10, 3000)))
        sock.fail = rng.choice((0, 0, 0, errno.EMSGSIZE, errno.ENETUNREACH, errno.ENOBUFS))
        if rng.random() < 0.5:
            sock.inbox.append(Echo(seq, data, remote, rng.choice((0, 1, 64, 255)), rng.randrange(256)))
        else:
            kind, code = rng.choice(((3, 3), (11, 0), (3, 4), (3, 1)))
            quote = spoilt(rng, icmp(8, 0, rng.getrandbits(16) << 16 | seq, data[:20]))
            offender = rng.choice((None, "192.0.2.1", "127.0.0.1", "::1", "198.51.100.9"))
            sock.errors.append(
                FakeError(errno.EHOSTUNREACH, kind, code, 1400, offender, (remote, 0), quote, 9)
            )
        sock.events.host_readable(self.net.now)

    def check(self) -> None:
        """What was sent is whole; nobody reached what is forbidden."""
        net = self.net
        for frame, vnet in net.sent:
            assert type(frame) is bytes and len(frame) >= 34, "not a frame"
            assert len(vnet) in (0, 10), "not a vnet header"
            assert frame[6:8] == wire.MAC_PREFIX, "not our MAC"
            assert frame[:6] != bytes(6) and not frame.startswith(wire.MAC_PREFIX), "to nobody"
            if frame[12:14] == wire.TYPE_IPV4:
                length = wire.U16.unpack_from(frame, 16)[0]
                assert length == len(frame) - 14, "length"
                assert vnet or length <= net.config.mtu, "beyond the MTU"
                assert checksum.good(frame[14:34]), "checksum"
        net.sent.clear()
        for sock in net.host.udps:
            for _, remote, ttl in sock.sent:
                assert 1 <= ttl & 0xFF <= 255 and not ttl >> 24, "TTL"
                self.allowed(remote)
            del sock.sent[:-1]
        for echo in net.host.echoes:
            for _, _, remote, how in echo.sent:
                assert 1 <= how & 0xFF <= 254, "TTL"
                self.allowed((remote, 0))
                assert remote != "127.0.0.1", "loopback"
            del echo.sent[:-1]
        for sock in net.host.tcps:
            self.allowed(sock.remote)

    def allowed(self, remote: tuple[str, int]) -> None:
        """Whether a host socket may have been pointed there."""
        assert remote not in self.net.host.control, "control plane"
        address = wire.ip_bytes(remote[0])
        assert remote[0] == "127.0.0.1" or not wire.is_martian(address), "martian"
        assert remote[0] != "127.0.0.1" or self.net.config.hostloopback, "loopback"
        if self.net.config.restrict:
            raise AssertionError("restrict")


def main(argv: Sequence[str] | None = None) -> int:
    """Run rounds until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seed", type=int)
    given = parser.parse_args(argv)
    seen: Counter[str] = Counter()
    end = time.monotonic() + given.seconds
    seed = given.seed if given.seed is not None else random.SystemRandom().getrandbits(32)
    rounds = 0
    while True:
        try:
            Round(seed, seen).play()
        except Exception:
            print(f"fuzz_slirp: round with --seed {seed} failed", file=sys.stderr)
            import traceback

            traceback.print_exc()
            return 1
        rounds += 1
        seed = (seed * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFF
        if time.monotonic() >= end or given.seed is not None:
            break
    print(
        f"fuzz_slirp: {rounds} rounds, nothing found; {len(seen)} kinds of events: {', '.join(sorted(seen))}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
