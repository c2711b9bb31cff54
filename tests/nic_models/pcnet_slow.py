"""The descriptor rings of the Am79C970A written down once more, slowly: the oracle of the property tests.

No engine, no registers, no time: rings in a bytearray, one function for what a transmit demand does and one for a frame
that arrives. Descriptors are objects with named fields, read anew for every look.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from zlib import crc32


@dataclass
class Desc:
    address: int
    buffer: int
    own: bool
    err: bool
    stp: bool
    enp: bool
    bits: int  # everything else of the status half
    size: int
    other: int


@dataclass
class Slow:
    cells: bytearray
    style: int
    rx_ring: int
    tx_ring: int
    rx_count: int
    tx_count: int
    mac: bytes
    rx_at: int = 0
    tx_at: int = 0
    tx_on: bool = True
    tint: bool = False
    rint: bool = False

    def read(self, base: int, index: int) -> Desc:
        entry = 16 if self.style else 8
        at = base + entry * index
        if self.style == 0:
            low, high, count, other = struct.unpack_from("<HHHH", self.cells, at)
            buffer, status = low + ((high & 255) << 16), high & 0xFF00
        else:
            words = list(struct.unpack_from("<III", self.cells, at))
            if self.style == 3:
                words.reverse()
            buffer, second, other = words
            status, count = second >> 16, second & 0xFFFF
        size = 4096 - (count & 0xFFF)
        flags = [bool(status & bit) for bit in (0x8000, 0x4000, 0x200, 0x100)]
        return Desc(at, buffer, *flags, status & ~0xC300, size, other)

    def write(self, desc: Desc, *, other: bool) -> None:
        status = desc.bits + 0x8000 * desc.own + 0x4000 * desc.err + 0x200 * desc.stp + 0x100 * desc.enp
        at = desc.address
        if self.style == 0:
            self.cells[at + 3] = status >> 8
            if other:
                struct.pack_into("<H", self.cells, at + 6, desc.other)
        else:
            struct.pack_into("<H", self.cells, at + 6, status)
            if other:
                struct.pack_into("<I", self.cells, at + (0 if self.style == 3 else 8), desc.other)

    # what a demand does, with APAD_XMT set and the link up

    def demand(self) -> list[bytes]:
        sent: list[bytes] = []
        while self.tx_on:
            head = self.read(self.tx_ring, self.tx_at)
            if not head.own:
                break
            if not head.stp:
                self.write(replace(head, own=False), other=False)
                self.tx_at = (self.tx_at + 1) % self.tx_count
                continue
            frame = self.frame(head)
            if frame is not None and len(frame) <= 4096:  # no wire takes more
                sent.append(frame.ljust(60, b"\0"))
        return sent

    def frame(self, head: Desc) -> bytes | None:
        chain = [head]
        while not chain[-1].enp:
            after = self.read(self.tx_ring, (self.tx_at + len(chain)) % self.tx_count)
            if len(chain) == self.tx_count or not after.own:
                break
            chain.append(after)
        data = b"".join(
            bytes(self.cells[d.buffer : d.buffer + (d.size if d.size < 4096 else 0)]) for d in chain
        )
        *given, last = chain
        for desc in given:
            self.write(replace(desc, own=False), other=False)
        whole = last.enp
        flags = 0 if whole else 0xC000
        other = flags if self.style == 0 else flags << 16
        self.write(replace(last, own=False, err=not whole, bits=last.bits & ~0x1C80, other=other), other=True)
        self.tx_at = (self.tx_at + len(chain)) % self.tx_count
        self.tint = True
        if not whole:
            self.tx_on = False
            return None
        return data

    # what a frame does that arrives; False: it waits

    def receive(self, frame: bytes) -> bool:
        frame = frame.ljust(60, b"\0")
        image = frame + crc32(frame).to_bytes(4, "little")
        match = 0x40 if frame[:6] == self.mac else 0x10
        at = self.rx_at
        chain: list[tuple[Desc, bytes]] = []
        while image:
            desc = self.read(self.rx_ring, at)
            if not desc.own or len(chain) == self.rx_count:
                break
            chain.append((desc, image[: desc.size]))
            image = image[desc.size :]
            at = (at + 1) % self.rx_count
        if not chain:
            return False
        total = sum(len(piece) for _, piece in chain)
        for number, (desc, piece) in enumerate(chain):
            self.cells[desc.buffer : desc.buffer + len(piece)] = piece
            last = number == len(chain) - 1
            done = replace(desc, own=False, err=False, stp=number == 0, enp=False, bits=desc.bits & 0xF)
            if self.style == 0:
                done.bits = 0
            if last and not image:
                done.enp = True
                done.bits |= match if self.style else 0
                done.other = total
            elif last:
                done.err = True
                done.bits |= 0x400 | (0x1000 if len(image) > 256 else 0)
            self.write(done, other=done.enp)
        self.rx_at = at
        self.rint = True
        return True
