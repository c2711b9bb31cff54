"""libslirp as an oracle: QEMU with no machine at all, its ``user`` backend and a socket on one hub; our own stack; and
what their frames say, as fields that can be compared."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from slirp.config import Config
from slirp.host.sockets import AsyncHost
from slirp.stack import Stack
from slirp.wire import dhcp as formats
from slirp.wire import ipv4 as wire
from tests.waiting import BOUND_S

LENGTH = struct.Struct("!I")


# ---- the two sides -----------------------------------------------------------------------------------------


class Oracle:
    """libslirp by way of QEMU's socket backend."""

    def __init__(self, keys: str = "", before: Sequence[str] = ()) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.process = subprocess.Popen(
            [
                *before,
                *("qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none"),
                *("-netdev", f"user,id=u{keys}", "-netdev", f"socket,id=s,listen=127.0.0.1:{port}"),
                *("-netdev", "hubport,hubid=0,id=h0,netdev=u", "-netdev", "hubport,hubid=0,id=h1,netdev=s"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        end = time.monotonic() + BOUND_S
        while True:
            try:
                self.sock = socket.create_connection(("127.0.0.1", port), 1)
                break
            except OSError:
                assert time.monotonic() < end and self.process.poll() is None, "QEMU did not come up"
        self.buffer = b""

    def exchange(self, frames: list[bytes], count: int) -> list[bytes]:
        for frame in frames:
            self.sock.sendall(LENGTH.pack(len(frame)) + frame)
        got: list[bytes] = []
        self.sock.settimeout(BOUND_S)
        while len(got) < count:
            self.buffer += self.sock.recv(65536)
            while len(self.buffer) >= 4:
                size = LENGTH.unpack_from(self.buffer)[0]
                if len(self.buffer) < 4 + size:
                    break
                got.append(self.buffer[4 : 4 + size])
                self.buffer = self.buffer[4 + size :]
        return got

    def close(self) -> None:
        self.sock.close()
        self.process.kill()
        self.process.communicate()


class Ours:
    """Our stack on the real host."""

    def __init__(self, config: Config | None = None) -> None:
        self.loop = asyncio.new_event_loop()
        self.got: list[bytes] = []
        self.host = AsyncHost(self.loop, time.monotonic_ns)
        self.stack = Stack(config or Config(), self.host, self._tx, random.Random(1), time.monotonic_ns())

    def _tx(self, frame: bytes, vnet: bytes) -> bool:
        self.got.append(frame)
        return True

    def exchange(self, frames: list[bytes], count: int) -> list[bytes]:
        for frame in frames:
            self.stack.input(frame, b"", time.monotonic_ns())

        async def wait() -> None:
            end = time.monotonic() + BOUND_S
            while len(self.got) < count:
                assert time.monotonic() < end, f"{len(self.got)} answers of {count}"
                await asyncio.sleep(0.001)
                self.stack.tick(time.monotonic_ns())

        self.loop.run_until_complete(wait())
        found, self.got = self.got, []
        return found

    def close(self) -> None:
        self.stack.close(time.monotonic_ns())
        self.host.close()
        self.loop.close()


# ---- answers as fields -------------------------------------------------------------------------------------


def fields(frame: bytes) -> dict[str, Any]:
    """What a frame says, without what is random (identification, checksums, initial sequence numbers)."""
    found: dict[str, Any] = {
        "to": frame[:6].hex(":"),
        "mac": frame[6:12].hex(":"),
        "type": frame[12:14].hex(),
    }
    if frame[12:14] == wire.TYPE_ARP:
        _, _, _, _, operation, sha, spa, tha, tpa = wire.ARP.unpack_from(frame, 14)
        return found | {
            "size": len(frame),
            "operation": operation,
            "sha": sha.hex(":"),
            "spa": wire.ip_text(spa),
            "tha": tha.hex(":"),
            "tpa": wire.ip_text(tpa),
        }
    first, tos, length, _, flags, ttl, protocol, _, src, dst = wire.IPV4.unpack_from(frame, 14)
    found |= {
        "ihl": first,
        "tos": tos,
        "flags": flags,
        "ttl": ttl,
        "protocol": protocol,
        "src": wire.ip_text(src),
        "dst": wire.ip_text(dst),
    }
    body = frame[34 : 14 + length]
    if protocol == 1:
        found |= {"icmp": tuple(body[:2])}
        if body[0] == 0:
            found |= {"rest": body[4:].hex()}
        else:
            quote = body[8:]
            found |= {"quote": (wire.ip_text(quote[12:16]), wire.ip_text(quote[16:20]), quote[9])}
            found |= {"quoted ttl": quote[8], "quoted bytes": len(quote)}
    elif protocol == 17:
        found |= {"ports": wire.PORTS.unpack_from(body)}
        if found["ports"][0] == 67:
            found |= dhcp(body[8:])
        else:
            found |= {"payload": body[8:].hex()}
    elif protocol == 6:
        _, _, _, ack, word, window = struct.unpack_from("!HHIIHH", body)
        found |= {
            "ports": wire.PORTS.unpack_from(body),
            "ack": ack,
            "tcp": f"{word & 0x3F:06b}",
            "window": window,
        }
        found |= {"options": sorted(options(body[20 : (word >> 12) * 4]))}
    return found


def options(data: bytes) -> list[int]:
    kinds = []
    while data and data[0]:
        if data[0] == 1:
            data = data[1:]
            continue
        kinds.append(data[0])
        data = data[data[1] :]
    return kinds


def dhcp(data: bytes) -> dict[str, Any]:
    values = formats.BOOTP.unpack_from(data)
    found: dict[str, Any] = {"size": len(data)}
    for name, value in zip(("op", "htype", "hlen", "hops", "xid", "secs", "bootp flags"), values):
        found[name] = value
    for name, value in zip(("ciaddr", "yiaddr", "siaddr", "giaddr"), values[7:11]):
        found[name] = wire.ip_text(value)
    found["chaddr"] = values[11][:6].hex(":")
    area = data[240:]
    order = []
    while area and area[0] != 255:
        if area[0] == 0:
            area = area[1:]
            continue
        order.append(area[0])
        found[f"option {area[0]}"] = area[2 : 2 + area[1]].hex()
        area = area[2 + area[1] :]
    found["order"] = order
    return found
