"""A client of the qtest line protocol, for QEMU's server and ours alike.

``command`` sends one line and waits for its answer; interrupt messages that come before it set ``levels``. ``batch``
sends many lines in one write. Every wait has a bound.
"""

from __future__ import annotations

import socket
import time

from tests.waiting import BOUND_S


class Refused(Exception):
    """FAIL or ERR; the text is the whole answer."""


class QtestClient:
    """One connection. ``levels``: interrupt lines as they were told; ``messages``: in the order they came."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.socket.settimeout(BOUND_S)
        self.levels: dict[int, bool] = {}
        self.messages: list[str] = []
        self._text = b""

    @classmethod
    def unix(cls, path: str) -> QtestClient:
        """Connect to a server that may still be starting."""
        deadline = time.monotonic() + BOUND_S
        while True:
            connected = socket.socket(socket.AF_UNIX)
            try:
                connected.connect(path)
            except (FileNotFoundError, ConnectionRefusedError):
                connected.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return cls(connected)

    def close(self) -> None:
        """End the connection."""
        self.socket.close()

    def line(self) -> str:
        """The next line from the server."""
        while b"\n" not in self._text:
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError("the server has ended the connection")
            self._text += data
        line, self._text = self._text.split(b"\n", 1)
        return line.decode()

    def answer(self) -> str:
        """The next answer; interrupt messages on the way are noted."""
        while True:
            line = self.line()
            if not line.startswith("IRQ "):
                return line
            _, change, pin = line.split()
            self.levels[int(pin)] = change == "raise"
            self.messages.append(line)

    def command(self, line: str) -> str:
        """What follows OK. Raises Refused."""
        self.socket.sendall(line.encode() + b"\n")
        return self._value(self.answer())

    def batch(self, lines: list[str]) -> list[str]:
        """All lines in one write, then their answers."""
        self.socket.sendall("".join(line + "\n" for line in lines).encode())
        return [self._value(self.answer()) for _ in lines]

    @staticmethod
    def _value(answer: str) -> str:
        word, _, value = answer.partition(" ")
        if word != "OK":
            raise Refused(answer)
        return value

    # ---- bus -----------------------------------------------------------------------------------------------

    def inb(self, port: int) -> int:
        return int(self.command(f"inb {port:#x}"), 16)

    def inw(self, port: int) -> int:
        return int(self.command(f"inw {port:#x}"), 16)

    def inl(self, port: int) -> int:
        return int(self.command(f"inl {port:#x}"), 16)

    def outb(self, port: int, value: int) -> None:
        self.command(f"outb {port:#x} {value:#x}")

    def outw(self, port: int, value: int) -> None:
        self.command(f"outw {port:#x} {value:#x}")

    def outl(self, port: int, value: int) -> None:
        self.command(f"outl {port:#x} {value:#x}")

    def readl(self, address: int) -> int:
        return int(self.command(f"readl {address:#x}"), 16)

    def read(self, address: int, length: int) -> bytes:
        return bytes.fromhex(self.command(f"read {address:#x} {length:#x}")[2:])

    def write(self, address: int, data: bytes) -> None:
        self.command(f"write {address:#x} {len(data):#x} 0x{data.hex()}")

    def wait(self, condition, what: str):
        """Poll until ``condition()`` is true; gives what it gave."""
        deadline = time.monotonic() + BOUND_S
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {BOUND_S} s for {what}")
        return value

    # ---- PCI -----------------------------------------------------------------------------------------------

    def config(self, slot: int, offset: int, size: int = 4) -> int:
        """Read a configuration register, by mechanism 1."""
        self.outl(0xCF8, 0x80000000 | slot << 11 | offset & 0xFC)
        return {1: self.inb, 2: self.inw, 4: self.inl}[size](0xCFC + (offset & 3))

    def set_config(self, slot: int, offset: int, value: int, size: int = 4) -> None:
        """Write a configuration register."""
        self.outl(0xCF8, 0x80000000 | slot << 11 | offset & 0xFC)
        {1: self.outb, 2: self.outw, 4: self.outl}[size](0xCFC + (offset & 3), value)
