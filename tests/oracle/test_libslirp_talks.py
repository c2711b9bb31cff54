"""Whole conversations beside libslirp: TCP, large UDP, TFTP, DNS, redirections, ping, malformed frames; the transcripts
compared. See ``talks``."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import dpkt
import pytest

from slirp.wire import ipv4 as wire
from tests.oracle.talks import (
    FENCE,
    GATEWAY,
    GUEST,
    URG,
    WORLD,
    Side,
    Talk,
    Tcp,
    Transcript,
    World,
    compare,
    data_of,
    enough,
    free,
    has,
    is_fence,
    parsed,
    received,
)
from tests.slirp.fakes import GUEST_MAC, HOST_MAC, arp, icmp, ip4, ping, udp, udp_body
from tests.slirp.netsim import ACK, FIN, PSH, RST, SYN, Segment, make_frame
from tests.slirp.services.test_dns import question
from tests.waiting import BOUND_S

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace"),
]


def tcp_open(side: Side, world: World) -> Transcript:
    tcp = Tcp(side, world.port)
    with world.accept():
        found = {"flags": tcp.syn_ack.flags, "mss": tcp.syn_ack.option(2), "window": tcp.syn_ack.window}
        found["other options"] = (tcp.syn_ack.option(3), tcp.syn_ack.option(4))
        tcp.end()
    return found


def tcp_open_with_all_options(side: Side, world: World) -> Transcript:
    tcp = Tcp(side, world.port, b"\x02\x04\x05\xb4\x04\x02\x08\x0a\0\0\0\1\0\0\0\0\x01\x03\x03\x07")
    with world.accept():
        found = {"mss": tcp.syn_ack.option(2), "scale": tcp.syn_ack.option(3), "sack": tcp.syn_ack.option(4)}
        found["timestamps"] = tcp.syn_ack.option(8)
        tcp.end()
    return found


def tcp_refused(side: Side, world: World) -> Transcript:
    tcp = Tcp(side, free(socket.SOCK_STREAM))
    return {"flags": tcp.syn_ack.flags, "ack": tcp.syn_ack.ack}


def tcp_echo_and_close(side: Side, world: World) -> Transcript:
    """The guest says, hears and closes; then the host closes."""
    tcp = Tcp(side, world.port)
    with world.accept() as sock:
        tcp.say(b"hello", until=lambda got: any(seg.ack == 5006 for seg in got))
        heard = received(sock, 5)
        sock.sendall(b"HELLO world")
        said = data_of(tcp.wait(enough(11)))
        fin = tcp.talk(ACK | FIN, until=lambda got: any(seg.ack == 5007 for seg in got))
        tcp.seq += 1
        rest = received(sock)
    last = fin + ([] if has(FIN)(fin) else tcp.wait(has(FIN)))
    tcp.talk(ACK)
    after = tcp.talk(ACK)  # the connection is over on both sides
    return {
        "host heard": heard,
        "guest heard": said,
        "end at the host": rest,
        "fin": any(seg.flags & FIN for seg in last),
        "after the end": [seg.flags for seg in after],
    }


def tcp_half_closed_by_the_guest(side: Side, world: World) -> Transcript:
    tcp = Tcp(side, world.port)
    with world.accept() as sock:
        tcp.talk(ACK | FIN, until=lambda got: any(seg.ack == 5002 for seg in got))
        tcp.seq += 1
        ended = received(sock)
        sock.sendall(b"late " * 1000)
        sock.shutdown(socket.SHUT_WR)
        got = tcp.wait(lambda segs: enough(5000)(segs) and has(FIN)(segs))
        tcp.talk(ACK)
    return {
        "end at the host": ended,
        "guest heard": data_of(got),
        "segment": max(len(seg.data) for seg in got),
    }


def tcp_half_closed_by_the_host(side: Side, world: World) -> Transcript:
    tcp = Tcp(side, world.port)
    with world.accept() as sock:
        sock.shutdown(socket.SHUT_WR)
        tcp.wait(has(FIN))
        tcp.say(b"still here", until=lambda got: any(seg.ack == 5011 for seg in got))
        heard = received(sock, 10)
        tcp.talk(ACK | FIN, until=lambda got: any(seg.ack == 5012 for seg in got))
        return {"host heard": heard, "end at the host": received(sock)}


def tcp_reset_by_the_guest(side: Side, world: World) -> Transcript:
    tcp = Tcp(side, world.port)
    with world.accept() as sock:
        answers = tcp.talk(RST | ACK)
        return {"answers": [seg.flags for seg in answers], "host hears": received(sock)}


def tcp_reset_by_the_host(side: Side, world: World) -> Transcript:
    tcp = Tcp(side, world.port)
    sock = world.accept()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    got = tcp.wait(has(RST))
    return {
        "reset": any(seg.flags & RST for seg in got),
        "seq": [(s.seq - tcp.first) & 0xFFFFFFFF for s in got if s.flags & RST],
    }


def tcp_hole(side: Side, world: World) -> Transcript:
    """The second of three segments comes last."""
    tcp = Tcp(side, world.port)
    with world.accept() as sock:
        tcp.talk(ACK, b"a" * 100, until=lambda got: any(seg.ack == 5101 for seg in got))
        duplicate = tcp.talk(ACK, b"c" * 100, seq=5201, count=1)
        filled = tcp.talk(ACK, b"b" * 100, seq=5101, count=1)
        found = {
            "about the hole": [(seg.ack, seg.flags) for seg in duplicate],
            "once it is filled": [seg.ack for seg in filled],
            "host heard": received(sock, 300),
        }
        tcp.end()
    return found


def tcp_repeated_data(side: Side, world: World) -> Transcript:
    tcp = Tcp(side, world.port)
    with world.accept() as sock:
        tcp.talk(ACK, b"once", until=lambda got: any(seg.ack == 5005 for seg in got))
        again = tcp.talk(ACK, b"once", count=1)
        found: Transcript = {"again": [seg.ack for seg in again], "host heard": received(sock, 4)}
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1)
        tcp.end()
    return found


def tcp_small_window(side: Side, world: World) -> Transcript:
    """The guest takes 100 bytes, then more."""
    tcp = Tcp(side, world.port, window=100)
    with world.accept() as sock:
        sock.sendall(bytes(range(250)))
        first = tcp.wait(enough(1))
        tcp.window = 65535
        rest = tcp.talk(ACK, until=enough(250 - len(data_of(first))))
        found = {"within the window": len(data_of(first)), "guest heard": data_of(first + rest)}
        tcp.end()
    return found


def tcp_small_mss(side: Side, world: World) -> Transcript:
    tcp = Tcp(side, world.port, b"\x02\x04\x02\x18")
    with world.accept() as sock:
        sock.sendall(bytes(2000))
        got = tcp.wait(enough(2000))
        found = {"longest segment": max(len(seg.data) for seg in got), "all": len(data_of(got))}
        tcp.end()
    return found


def tcp_urgent(side: Side, world: World) -> Transcript:
    """The byte before the pointer reaches the host as its urgent byte."""
    tcp = Tcp(side, world.port)
    with world.accept() as sock:
        tcp.talk(ACK | URG, b"ab!cd", urgent=3, until=lambda got: any(seg.ack == 5006 for seg in got))
        end = time.monotonic() + BOUND_S
        mark: bytes | str = ""
        while time.monotonic() < end and not mark:
            try:
                mark = sock.recv(1, socket.MSG_OOB)
            except OSError:
                mark = "none" if side.name == "libslirp" else ""
        found: Transcript = {"urgent byte": mark, "in line": received(sock, 4)}
        tcp.end()
    return found


def tcp_syn_in_a_connection(side: Side, world: World) -> Transcript:
    tcp = Tcp(side, world.port)
    with world.accept():
        got = tcp.talk(SYN, seq=tcp.seq + 10, count=1)
        found = {"answer": [seg.flags for seg in got]}
        tcp.end()
    return found


def tcp_to_the_world(side: Side, world: World) -> Transcript:
    """To an address of the world, not ours."""
    with socket.create_server((WORLD, 0)) as listener:
        listener.settimeout(BOUND_S)
        tcp = Tcp(side, listener.getsockname()[1], dst=wire.ip_bytes(WORLD))
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(BOUND_S)
            tcp.say(b"hello")
            found = {
                "flags": tcp.syn_ack.flags,
                "from": wire.ip_text(tcp.syn_ack.src),
                "heard": received(sock, 5),
            }
            tcp.end()
    return found


# ---- UDP, ping ---------------------------------------------------------------------------------------------


def fragments(
    payload: bytes, dst: str, protocol: int = 17, dport: int = 0, sport: int = 4000, step: int = 1480
) -> list[bytes]:
    """A guest's datagram, or echo request, in fragments."""
    body = (
        udp_body("10.0.2.15", dst, sport, dport, payload)
        if protocol == 17
        else icmp(8, 0, 9 << 16 | 1, payload)
    )
    ident = next(Side.ports)
    return [
        ip4(
            "10.0.2.15",
            dst,
            protocol,
            body[at : at + step],
            ident=ident,
            flags=at >> 3 | (0x2000 if at + step < len(body) else 0),
        )
        for at in range(0, len(body), step)
    ]


def together(frames: list[bytes]) -> bytes:
    """The IP payload of a datagram in fragments."""
    parts = {
        (wire.U16.unpack_from(frame, 20)[0] & 0x1FFF) * 8: frame[34 : 14 + wire.U16.unpack_from(frame, 16)[0]]
        for frame in frames
    }
    return b"".join(parts[at] for at in sorted(parts))


def udp_large(side: Side, world: World) -> Transcript:
    payload = bytes(n * 3 & 255 for n in range(5000))
    sport = next(Side.ports)
    side.hear(*fragments(payload, "10.0.2.2", dport=world.udp_port, sport=sport))
    data, peer = world.udp.recvfrom(65536)
    world.udp.sendto(data, peer)
    got = side.hear(count=4)
    return {
        "host heard": data == payload,
        "guest heard": together(got)[8:] == payload,
        "sizes": [wire.U16.unpack_from(frame, 16)[0] for frame in got],
        "from": wire.ip_text(got[0][26:30]),
    }


def udp_stranger(side: Side, world: World) -> Transcript:
    """Somebody else writes to the flow's port (full cone)."""
    sport = next(Side.ports)
    side.hear(udp("10.0.2.2", world.udp_port, b"here I am", sport=sport))
    _, peer = world.udp.recvfrom(65536)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((WORLD, 0))
        other.sendto(b"stranger", ("127.0.0.1", peer[1]))
        port = other.getsockname()[1]
        (got,) = side.hear(count=1)
    return {
        "from": wire.ip_text(got[26:30]),
        "port": wire.PORTS.unpack_from(got, 34)[0] == port,
        "data": got[42:50],
    }


def udp_closed_in_the_world(side: Side, world: World) -> Transcript:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((WORLD, 0))
        port = sock.getsockname()[1]
    (got,) = side.hear(udp(WORLD, port, b"hello", sport=next(Side.ports)), count=1)
    return {
        "from": wire.ip_text(got[26:30]),
        "icmp": tuple(got[34:36]),
        "ttl": got[22],
        "quoted": wire.ip_text(got[58:62]),
    }


def ping_the_world(side: Side, world: World) -> Transcript:
    (got,) = side.hear(ping(WORLD, bytes(range(56))), count=1)
    return {
        "from": wire.ip_text(got[26:30]),
        "icmp": tuple(got[34:36]),
        "rest": got[38:42].hex(),
        "data": got[42:98],
        "ttl": got[22],
    }


def ping_large(side: Side, world: World) -> Transcript:
    payload = bytes(n & 255 for n in range(4000))
    got = side.hear(*fragments(payload, "10.0.2.2", 1), count=3)
    return {
        "data": together(got)[8:] == payload,
        "sizes": [wire.U16.unpack_from(frame, 16)[0] for frame in got],
    }


def icmp_queries(side: Side, world: World) -> Transcript:
    """Timestamp, mask, information: neither answers."""
    return {
        str(kind): len(side.hear(ip4("10.0.2.15", "10.0.2.2", 1, icmp(kind, 0, 0, bytes(12)))))
        for kind in (13, 15, 17, 10, 42)
    }


# ---- TFTP, DNS, redirections -------------------------------------------------------------------------------


def tftp(side: Side, message: bytes, port: int = 69, sport: int | None = None, count: int = 1) -> list[bytes]:
    """Messages that come back, each with its source port (2 bytes) in front."""
    sport = next(Side.ports) if sport is None else sport
    got = side.hear(udp("10.0.2.2", port, message, sport=sport), count=count)
    return [
        frame[34:36] + frame[42 : 34 + wire.U16.unpack_from(frame, 38)[0]] for frame in got if frame[23] == 17
    ]


def request(name: bytes, *options: bytes, opcode: int = 1, mode: bytes = b"octet") -> bytes:
    return bytes((0, opcode)) + b"".join(word + b"\0" for word in (name, mode, *options))


def tftp_read(side: Side, world: World) -> Transcript:
    sport = next(Side.ports)
    (first,) = tftp(side, request(b"f"), sport=sport)
    port = int.from_bytes(first[:2], "big")
    blocks = [first]
    for number in (1, 2):
        blocks += tftp(side, bytes((0, 4, 0, number)), port, sport)
    tftp(side, b"\0\4\0\3", port, sport, 0)
    return {
        "data": b"".join(block[6:] for block in blocks) == (world.tftp / "f").read_bytes(),
        "blocks": [(block[2:6].hex(), len(block) - 6) for block in blocks],
        "transfer id": port == 69,
    }


def tftp_options(side: Side, world: World) -> Transcript:
    sport = next(Side.ports)
    (oack,) = tftp(side, request(b"f", b"tsize", b"0", b"blksize", b"1024"), sport=sport)
    (block,) = tftp(side, b"\0\4\0\0", int.from_bytes(oack[:2], "big"), sport)
    words = oack[4:].rstrip(b"\0").split(b"\0")
    found: Transcript = {"oack": dict(zip(words[::2], words[1::2])), "block": len(block) - 6}
    tftp(side, b"\0\5\0\0enough\0", int.from_bytes(oack[:2], "big"), sport, 0)
    return found


def tftp_large_blocks(side: Side, world: World) -> Transcript:
    sport = next(Side.ports)
    (oack,) = tftp(side, request(b"f", b"blksize", b"1468"), sport=sport)
    tftp(side, b"\0\5\0\0enough\0", int.from_bytes(oack[:2], "big"), sport, 0)
    return {"oack": oack[4:]}


def tftp_even(side: Side, world: World) -> Transcript:
    """A whole number of blocks ends with an empty one."""
    sport = next(Side.ports)
    (block,) = tftp(side, request(b"even"), sport=sport)
    port = int.from_bytes(block[:2], "big")
    sizes = [len(block) - 6]
    for number in (1, 2):
        (block,) = tftp(side, bytes((0, 4, 0, number)), port, sport)
        sizes.append(len(block) - 6)
    tftp(side, b"\0\4\0\3", port, sport, 0)
    return {"sizes": sizes}


def tftp_refusals(side: Side, world: World) -> Transcript:
    asked = {
        "missing": request(b"nothing"),
        "outside": request(b"../f"),
        "outside within": request(b"dir/../../f"),
        "directory": request(b"dir"),
    }
    return {what: tftp(side, message)[0][2:6].hex() for what, message in asked.items()}


def tftp_netascii(side: Side, world: World) -> Transcript:
    sport = next(Side.ports)
    (answer,) = tftp(side, request(b"even", mode=b"netascii"), sport=sport)
    port = int.from_bytes(answer[:2], "big")
    if port != 69:
        tftp(side, b"\0\5\0\0enough\0", port, sport, 0)
    return {"answer": answer[2:6].hex()}


def tftp_write(side: Side, world: World) -> Transcript:
    return {"answers": [answer[2:6].hex() for answer in tftp(side, request(b"new", opcode=2), count=0)]}


def tftp_malformed(side: Side, world: World) -> Transcript:
    words = (b"", b"\0", b"\0\1", b"\0\7\0\0", b"\xff\xff", b"\0\3\0\1data", b"\0\4\0\1")
    return {word.hex(): len(tftp(side, word, count=0)) for word in words}


def dns(side: Side, world: World) -> Transcript:
    found: Transcript = {}
    for name in ("a.example", "b.example"):
        sport = next(Side.ports)
        frames = side.hear(udp("10.0.2.3", 53, question(name, 7), sport=sport), count=1)
        (got,) = [frame for frame in frames if wire.PORTS.unpack_from(frame, 34) == (53, sport)]
        answer = dpkt.dns.DNS(got[42 : 34 + wire.U16.unpack_from(got, 38)[0]])
        found[name] = (answer.rcode, answer.id, [socket.inet_ntoa(rr.ip) for rr in answer.an])
        found["from"] = wire.ip_text(got[26:30])
    return found


def forward_tcp(side: Side, world: World) -> Transcript:
    """A client of the host's, and a guest that answers, hears and is heard."""
    with socket.socket() as client:
        client.settimeout(BOUND_S)
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", side.forward))
        syns = [
            parsed(f) for f in side.hear(until=lambda got: any(frame[23] == 6 for frame in got)) if f[23] == 6
        ]
        syn = syns[0]
        client_port = client.getsockname()[1]

        def give(flags: int, seq: int, data: bytes = b"", until: Any = None) -> list[Segment]:
            frame = make_frame(GUEST, GATEWAY, 80, syn.sport, seq, ack, flags, 65535, b"", data)
            frames = side.hear(HOST_MAC + GUEST_MAC + frame[12:], until=until)
            return [parsed(f) for f in frames if f[23] == 6]

        ack = (syn.seq + 1) & 0xFFFFFFFF
        give(SYN | ACK, 9000, until=lambda got: any(f[23] == 6 and f[47] & ACK for f in got))
        client.setblocking(True)
        client.settimeout(BOUND_S)
        give(ACK | PSH, 9001, b"welcome", until=lambda got: any(f[23] == 6 for f in got))
        heard = received(client, 7)
        client.sendall(b"thanks")
        said = data_of(
            [
                parsed(f)
                for f in side.hear(
                    until=lambda got: any(f[23] == 6 and len(f) > 54 and parsed(f).data for f in got)
                )
                if f[23] == 6
            ]
        )
        ack = (ack + 6) & 0xFFFFFFFF
        give(RST | ACK, 9008)
        return {
            "from": wire.ip_text(syn.src),
            "the client's port": syn.sport == client_port,
            "mss": syn.option(2),
            "client heard": heard,
            "guest heard": said,
            "the guest's reset": received(client),
        }


def forward_udp(side: Side, world: World) -> Transcript:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(BOUND_S)
        client.bind(("127.0.0.1", 0))
        client.sendto(b"hello", ("127.0.0.1", side.udp_forward))
        (got,) = side.hear(count=1)
        sport, dport = wire.PORTS.unpack_from(got, 34)
        side.hear(udp("10.0.2.2", sport, b"hi", sport=81))
        data, peer = client.recvfrom(100)
        return {
            "from": wire.ip_text(got[26:30]),
            "the client's port": sport == client.getsockname()[1],
            "to": dport,
            "data": got[42:47],
            "answer": data,
            "answered by": peer[1] == side.udp_forward,
        }


# ---- malformed ---------------------------------------------------------------------------------------------


def spoil(frame: bytes, at: int, value: bytes, mend: bool = True) -> bytes:
    """Bytes replaced; the IP header's checksum mended."""
    out = bytearray(frame)
    out[at : at + len(value)] = value
    if mend:
        out[24:26] = b"\0\0"
        total = sum(struct.unpack("!10H", out[14:34]))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        out[24:26] = (~total & 0xFFFF).to_bytes(2, "big")
    return bytes(out)


MALFORMED: dict[str, Callable[[World], bytes]] = {
    "nothing but an Ethernet header": lambda w: ping("10.0.2.2")[:14],
    "half an IP header": lambda w: ping("10.0.2.2")[:24],
    "IP version 5": lambda w: spoil(ping("10.0.2.2"), 14, b"\x55"),
    "IP header length 4": lambda w: spoil(ping("10.0.2.2"), 14, b"\x44"),
    "IP header longer than the packet": lambda w: spoil(ping("10.0.2.2", b""), 14, b"\x4f"),
    "IP total length beyond the frame": lambda w: spoil(ping("10.0.2.2"), 16, b"\x05\xdc"),
    "IP total length below its header": lambda w: spoil(ping("10.0.2.2"), 16, b"\x00\x13"),
    "IP checksum": lambda w: spoil(ping("10.0.2.2"), 24, b"\x00\x01", mend=False),
    "ICMP checksum": lambda w: spoil(ping("10.0.2.2"), 36, b"\x00\x01"),
    "ICMP of 4 bytes": lambda w: ip4("10.0.2.15", "10.0.2.2", 1, b"\x08\x00\xf7\xff"),
    "UDP of 4 bytes": lambda w: ip4("10.0.2.15", "10.0.2.2", 17, bytes(4)),
    "UDP length 7": lambda w: ip4("10.0.2.15", "10.0.2.2", 17, wire.UDP.pack(4000, w.udp_port, 7, 0)),
    "UDP length beyond the packet": lambda w: ip4(
        "10.0.2.15", "10.0.2.2", 17, wire.UDP.pack(4000, w.udp_port, 99, 0)
    ),
    "TCP of 12 bytes": lambda w: ip4("10.0.2.15", "10.0.2.2", 6, bytes(12)),
    "TCP header length 4": lambda w: ip4("10.0.2.15", "10.0.2.2", 6, bytes(12) + b"\x10\x02" + bytes(6)),
    "TCP checksum": lambda w: ip4("10.0.2.15", "10.0.2.2", 6, bytes(12) + b"\x50\x02" + bytes(6)),
    "a first fragment alone": lambda w: ip4("10.0.2.15", "10.0.2.2", 17, bytes(16), flags=0x2000, ident=77),
    "ARP of 20 bytes": lambda w: arp(1, "10.0.2.15", "10.0.2.2")[:34],
    "ARP for another protocol": lambda w: spoil(arp(1, "10.0.2.15", "10.0.2.2"), 20, b"\x00\x09", mend=False),
    "an unknown Ethernet type": lambda w: HOST_MAC + GUEST_MAC + b"\x12\x34" + bytes(46),
}


def malformed(side: Side, world: World) -> Transcript:
    found: Transcript = {}
    for name, make in MALFORMED.items():
        got = side.side.exchange([make(world), ping("10.0.2.2", FENCE)], 1)
        while not any(map(is_fence, got)):
            got += side.side.exchange([], 1)
        found[name] = [frame[12:].hex() for frame in got if not is_fence(frame)]
    return found


# ---- the comparison ----------------------------------------------------------------------------------------


SEGMENT = "full segments of the agreed MSS; libslirp stops at 1440"
TTL_KEPT = "what came back had 64, less our hop; libslirp writes 255"
TALKS = [
    Talk(tcp_open),
    Talk(
        tcp_open_with_all_options,
        {"scale": "window scaling is agreed; libslirp has none", "sack": "so is SACK"},
    ),
    Talk(tcp_refused),
    Talk(tcp_echo_and_close),
    Talk(tcp_half_closed_by_the_guest, {"segment": SEGMENT}),
    Talk(tcp_half_closed_by_the_host),
    Talk(tcp_reset_by_the_guest, {"host hears": "a reset is a reset; libslirp closes in order"}),
    Talk(tcp_reset_by_the_host),
    Talk(tcp_hole),
    Talk(tcp_repeated_data),
    Talk(tcp_small_window),
    Talk(tcp_small_mss, {"longest segment": "the MSS that was agreed; libslirp goes beyond a small one"}),
    Talk(tcp_urgent),
    Talk(tcp_syn_in_a_connection, {"answer": "a challenge ACK (RFC 5961 4.2); libslirp resets"}),
    Talk(tcp_to_the_world),
    Talk(udp_large),
    Talk(udp_stranger),
    Talk(udp_closed_in_the_world, {"ttl": TTL_KEPT}),
    Talk(ping_the_world, {"ttl": TTL_KEPT}),
    Talk(ping_large),
    Talk(icmp_queries),
    Talk(
        tftp_read,
        {"transfer id": "a port of its own for each transfer (RFC 1350 4); libslirp answers from 69"},
    ),
    Talk(tftp_options),
    Talk(tftp_large_blocks, {"oack": "what was asked fits the MTU; libslirp stops at 1428"}),
    Talk(tftp_even),
    Talk(tftp_refusals),
    Talk(tftp_netascii, {"answer": "RFC 1350 has it; libslirp refuses"}),
    Talk(tftp_write, {"answers": "access violation; libslirp is silent"}),
    Talk(
        tftp_malformed,
        dict.fromkeys(
            ("", "00", "00070000", "ffff", "0003000164617461", "00040001"),
            "an error that says why (RFC 1350 5); libslirp is silent",
        ),
    ),
    Talk(dns),
    Talk(forward_tcp, {"the guest's reset": "a reset is a reset; libslirp closes in order"}),
    Talk(forward_udp),
    Talk(malformed, {"UDP length 7": "no datagram; libslirp hands it to the host"}),
]


@pytest.mark.parametrize("talk", TALKS, ids=lambda talk: talk.play.__name__)
def test_talk(talk: Talk, world: World, sides: tuple[Side, Side]) -> None:
    compare(talk, world, sides)
