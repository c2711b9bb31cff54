"""Fuzz what the NAT reads beside frames: ``python -m tests.fuzz.fuzz_nat_text [--seconds N] [--seed S]``.

FTP replies that are rewritten, in pieces; entries of the host's error queues; messages of ping and raw sockets; resolv.conf;
option texts of nets and resolvers. A finding is any exception but the documented one, a stream that is changed where it
may not be, or more held back than a line.
"""

from __future__ import annotations

import random
import re
import socket
import struct
import sys
from collections.abc import Sequence

from slirp import config
from slirp.forward.ftp_server import LINE, PER_CONTROL, Control
from slirp.host.echo import _echo
from slirp.host.errors import hops, parse_error
from slirp.host.sockets import is_local, parse_resolv_conf
from slirp.wire import dhcp as formats
from slirp.wire.ipv4 import canonical
from tests.fuzz import runner
from tests.fuzz.runner import Done
from tests.slirp.fakes import FakeClient, icmp
from tests.slirp.forward.test_ftp_server import EPSV, GUEST, PASV, Owner

REPLIES = (
    PASV,
    EPSV,
    b"220 ready\r\n",
    b"227 (10,0,2,15,256,1)\r\n",
    b"227 " + b"9" * 400 + b"\r\n",
    b"229 (|||99999|)\r\n",
    b"229 (||||)\n",
    b"227-one\r\n227 (10,0,2,15,0,0)\r\n",
    b"22",
    b"2",
    b"\xff\xf4\xff\xf2ABOR\r\n",
    b"x" * 5000,
    b"",
)
TOUCHED = re.compile(rb"^(?:227|229)[^\n]*", re.MULTILINE)
TEXTS = (
    "10.0.2.0/24",
    "fec0::/64",
    "127.0.0.1:53+[::1]:5353",
    "nameserver 10.0.0.1\n",
    "::ffff:127.0.0.1",
    "%eth0",
    "1.2.3",
)


def spoilt(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.randrange(4)):
        if out:
            at = rng.randrange(len(out))
            what = rng.randrange(3)
            if what == 0:
                out[at] = rng.randrange(256)
            elif what == 1:
                del out[at:]
            else:
                out[at:at] = rng.randbytes(rng.randrange(4))
    return bytes(out)


def ftp(rng: random.Random) -> int:
    """A server's words in pieces: only 227 and 229 may read otherwise, and all comes out in the end."""
    owner = Owner()
    client = FakeClient(("192.0.2.7", 40000), ("127.0.0.5", 2121))
    control = Control(owner, client)
    control.guest = GUEST
    said = b"".join(spoilt(rng, rng.choice(REPLIES)) for _ in range(rng.randrange(1, 12)))
    at = 0
    while at < len(said):
        size = rng.choice((1, 2, 7, 80, 3000))
        owner.full = rng.random() < 0.3
        assert control.send(said[at : at + size]) == len(said[at : at + size])
        at += size
        assert len(control._held) <= LINE, "held"
        assert sum(not port.closed for port in owner.ports) <= PER_CONTROL, "ports"
    control.shutdown()
    heard = bytes(client.sent)
    assert TOUCHED.sub(b"", heard) == TOUCHED.sub(b"", said), "changed elsewhere"
    control.close()
    assert all(port.closed for port in owner.ports)
    return len(said)


def errors(rng: random.Random) -> int:
    """Control messages of the error queue, and of a reply."""
    address = rng.choice(
        (
            struct.pack("=HH", socket.AF_INET, 0) + rng.randbytes(12),
            struct.pack("=HHI", socket.AF_INET6, 0, 0) + rng.randbytes(20),
            rng.randbytes(rng.randrange(30)),
        )
    )
    entry = struct.pack(
        "=IBBBBII", rng.choice((113, 90, 111, 0)), rng.randrange(5), *rng.randbytes(3), rng.getrandbits(32), 0
    )
    data = spoilt(rng, entry + address)
    level, kind = rng.choice(((0, 11), (41, 25), (0, 2), (41, 52), (rng.randrange(300), rng.randrange(300))))
    found = parse_error(level, kind, data, ("192.0.2.1", 9), b"quote", rng.randrange(256))
    assert found is None or (0 <= found.type <= 255 and 0 <= found.code <= 255)
    assert found is None or found.offender is None or canonical(found.offender)
    assert isinstance(hops([(level, kind, data)]), int)
    message = spoilt(
        rng, icmp(rng.choice((0, 8, 129)), 0, rng.getrandbits(32), rng.randbytes(rng.randrange(40)))
    )
    echo = _echo(rng.choice((4, 6)), message, "192.0.2.1", 64, 0)
    assert echo is None or (0 <= echo[0] <= 0xFFFF and len(echo[1].data) == len(message) - 8)
    return 3


def texts(rng: random.Random) -> int:
    """What people and files write."""
    text = spoilt(rng, rng.choice(TEXTS).encode()).decode("utf-8", "replace")
    servers = parse_resolv_conf(
        "\n".join(rng.choice(("nameserver ", "search ", "", "#")) + text for _ in range(rng.randrange(12)))
    )
    assert 1 <= len(servers) <= 8 and all(port == 53 for _, port in servers)
    assert is_local(text) in (True, False)
    for parse in (config.parse_net, config.parse_resolver):
        try:
            parse(text)
        except ValueError as error:
            assert "\n" not in str(error) or "\n" in text
    formats.describe(rng.randbytes(rng.randrange(100)))
    return 4


def case(seed: int, done: Done) -> int:
    """One case of each."""
    rng = random.Random(seed)
    count = 0
    for act in (ftp, errors, texts):
        count += act(rng)
        done[act.__name__] += 1
    return count


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    return runner.main("fuzz_nat_text", case, argv)


if __name__ == "__main__":
    sys.exit(main())
