"""Two buses with one shape: QEMU's, over its qtest protocol, and ours. Both carry one NIC on a wire that we hold.

QEMU runs without a guest: its firmware is a ROM that halts (a machine that is stopped with -S would drop frames).
Frames pass over a socketpair with QEMU's stream framing, a 32-bit big-endian length before each.
Every wait is for something that must come, with a bound.
"""

from __future__ import annotations

import select
import shutil
import socket
import subprocess
import time

from nic_models.bus.machine import Machine
from nic_models.models import plug
from tests.waiting import BOUND_S

QEMU = shutil.which("qemu-system-x86_64")
MAC = bytes.fromhex("525400123456")
MIN_FRAME = 60  # without FCS: a wire carries no shorter one (IEEE 802.3, 4.2.3.3)
HALT = b"\xfa\xf4\xeb\xfd"  # cli; hlt; jmp to the hlt
DEVICES = {
    "ne2k_pci": ("pc", "ne2k_pci,addr=3"),
    "ne2k_isa": ("isapc", "ne2k_isa"),
    "pcnet": ("pc", "pcnet,addr=3"),
}


class Bus:
    """What both have. ``wait()`` polls ``condition`` until it holds."""

    name = ""

    def inb(self, port):
        return self.port_in("inb", port)

    def inw(self, port):
        return self.port_in("inw", port)

    def inl(self, port):
        return self.port_in("inl", port)

    def outb(self, port, value):
        self.port_out("outb", port, value)

    def outw(self, port, value):
        self.port_out("outw", port, value)

    def outl(self, port, value):
        self.port_out("outl", port, value)

    def wait(self, condition):
        deadline = time.monotonic() + BOUND_S
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name}: waited {BOUND_S} s in vain")


class QemuBus(Bus):
    """QEMU with one NIC; ``levels`` are the IO-APIC's inputs (pc only)."""

    name = "qemu"

    def __init__(self, model, directory):
        machine, device = DEVICES[model]
        rom = directory / "halt.bin"
        rom.write_bytes((b"\x90" * 0xFFF0 + HALT).ljust(0x10000, b"\x90"))
        self.socket, theirs = socket.socketpair()
        self.socket.setblocking(False)
        self.levels = [False] * 24
        self.buffer = b""
        command = [QEMU, "-M", machine, "-m", "16", "-accel", "tcg", "-bios", str(rom), "-nodefaults"]
        command += ["-display", "none", "-qtest", "stdio", "-qtest-log", "none"]
        command += ["-netdev", f"socket,id=n,fd={theirs.fileno()}"]
        command += ["-device", f"{device},netdev=n,mac={MAC.hex(':')}"]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
        )
        theirs.close()
        self.text = b""
        if machine == "pc":
            self.command("irq_intercept_in ioapic")

    def command(self, line):
        """One command, its answer's words."""
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        while True:
            while b"\n" not in self.text:
                ready, _, _ = select.select([self.process.stdout], [], [], BOUND_S)
                chunk = self.process.stdout.read1(65536) if ready else b""
                assert chunk, f"qtest did not answer {line!r}"
                self.text += chunk
            answer, self.text = self.text.split(b"\n", 1)
            words = answer.decode().split()
            if words and words[0] == "IRQ":
                self.levels[int(words[2])] = words[1] == "raise"
            elif words and words[0] == "OK":
                return words[1:]
            else:
                assert words[:1] not in (["FAIL"], ["ERR"]), answer

    def port_in(self, kind, port):
        return int(self.command(f"{kind} {port:#x}")[0], 16)

    def port_out(self, kind, port, value):
        self.command(f"{kind} {port:#x} {value:#x}")

    def send(self, frame):
        """A frame onto the wire, towards the NIC.

        A short one is padded here: QEMU 7.2 does so to what a netdev brings, QEMU 10 hands it on as it is.
        """
        frame = frame.ljust(MIN_FRAME, b"\0")
        self.socket.setblocking(True)
        self.socket.sendall(len(frame).to_bytes(4, "big") + frame)
        self.socket.setblocking(False)

    def received(self, count):
        """The next ``count`` frames that the NIC sent."""
        frames = []
        while len(frames) < count:
            size = int.from_bytes(self.buffer[:4], "big")
            if len(self.buffer) >= 4 + size and len(self.buffer) >= 4:
                frames.append(self.buffer[4 : 4 + size])
                self.buffer = self.buffer[4 + size :]
                continue
            ready, _, _ = select.select([self.socket], [], [], BOUND_S)
            assert ready, "QEMU sent no frame"
            self.buffer += self.socket.recv(65536)
        return frames

    def irq(self, line):
        self.command("inb 0x80")  # lets pending messages in
        return self.levels[line]

    def close(self):
        self.process.stdin.close()
        self.process.terminate()
        self.process.wait(BOUND_S)
        self.process.stdout.close()
        self.socket.close()


class OurBus(Bus):
    """Our machine with the same NIC."""

    name = "tapnet"
    _SIZES = {"b": 1, "w": 2, "l": 4}

    def __init__(self, model, directory=None):
        self.machine = Machine(DEVICES[model][0], 16 << 20, now=lambda: 0)
        self.frames = []
        self.slot = plug(self.machine, model, MAC, self._tx, lambda: None)

    def _tx(self, frame, vnet=b""):
        self.frames.append(frame)
        return True

    def port_in(self, kind, port):
        return self.machine.io_read(port, self._SIZES[kind[-1]])

    def port_out(self, kind, port, value):
        self.machine.io_write(port, self._SIZES[kind[-1]], value)

    def send(self, frame):
        self.slot.receive(frame)

    def received(self, count):
        frames, self.frames = self.frames[:count], self.frames[count:]
        assert len(frames) == count
        return frames

    def irq(self, line):
        return self.machine.irq_levels[line]

    def close(self):
        pass
