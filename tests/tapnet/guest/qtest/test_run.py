"""``tapnet run -qtest``: real processes."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.oracle.qtest_client import QtestClient, Refused
from tests.oracle.qtest_script import IO, LINE, SLOT, Ne2000, arp_request
from tests.waiting import BOUND_S

NIC = ("-net", "nic,macaddr=52:54:00:12:34:56,model=")


class Running:
    """A tapnet process. ``err`` is a pipe."""

    def __init__(self, *options, **popen):
        command = [sys.executable, "-m", "tapnet", "run", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **popen)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stderr.close()

    def warning(self):
        """The next line of standard error."""
        ready, _, _ = select.select([self.process.stderr], [], [], BOUND_S)
        assert ready, "nothing was said"
        return self.process.stderr.readline()

    def end(self):
        """SIGTERM; the status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(BOUND_S)


def test_standard_input_and_output():
    with Running(*NIC[:1], NIC[1] + "rtl8139", "-net", "user", "-qtest", "stdio",
                 stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:  # fmt: skip
        process = running.process
        process.stdin.write("outl 0xcf8 0x80001800\ninl 0xcfc\n" + "inb 0x80\n" * 500)
        process.stdin.close()
        answers = [process.stdout.readline() for _ in range(502)]
        assert answers == ["OK\n", "OK 0x813910ec\n", *["OK 0x00ff\n"] * 500]
        assert process.poll() is None  # the end of the input is not the end of tapnet, as with QEMU
        assert running.end() == 0
        assert process.stdout.read() == ""
        process.stdout.close()


def test_it_waits_for_its_client_before_it_says_that_it_is_ready(tmp_path):
    ready, tell = os.pipe()
    with Running(*NIC[:1], NIC[1] + "ne2k_pci", "-net", "user", "-qtest", f"unix:{tmp_path}/bus,server=on",
                 "--ready-fd", str(tell), pass_fds=(tell,)) as running:  # fmt: skip
        os.close(tell)
        assert running.warning() == f"tapnet: waiting for a client on unix:{tmp_path}/bus\n"
        assert select.select([ready], [], [], 0)[0] == []
        client = QtestClient.unix(f"{tmp_path}/bus")
        assert client.command("endianness") == "little"
        assert select.select([ready], [], [], BOUND_S)[0]
        client.close()
        assert running.end() == 0
    os.close(ready)
    assert list(tmp_path.iterdir()) == []


def test_it_can_be_ended_while_it_waits(tmp_path):
    with Running("-net", "nic", "-net", "user", "-qtest", f"unix:{tmp_path}/bus,server=on") as running:
        assert "waiting for a client" in running.warning()
        assert running.end() == 0
    assert list(tmp_path.iterdir()) == []


def test_it_connects_as_qemu_does(tmp_path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{tmp_path}/bench")
        listening.listen()
        listening.settimeout(BOUND_S)
        with Running("-M", "isapc", *NIC[:1], NIC[1] + "ne2k_isa,iobase=0x320,irq=5",
                     "-qtest", f"unix:{tmp_path}/bench") as running:  # fmt: skip
            client = QtestClient(listening.accept()[0])
            with pytest.raises(Refused, match="Unknown device"):
                client.command("irq_intercept_in ioapic")  # an isapc has none, in QEMU either
            client.command("irq_intercept_in isa")
            client.inb(0x320 + 0x1F)
            assert client.inb(0x327) == 0x80
            for offset, value in ((0x0F, 0x40), (0x0A, 0), (0x0B, 0), (0x00, 0x0A)):
                client.outb(0x320 + offset, value)
            assert client.levels == {5: True}  # RDC: nothing to transfer
            client.close()
            assert running.end() == 0


def test_what_cannot_be_opened_is_one_line(tmp_path):
    with Running("-net", "nic", "-net", "user", "-qtest", f"unix:{tmp_path}/no") as running:
        assert running.warning() == (
            f"tapnet: -qtest unix:{tmp_path}/no: cannot connect: No such file or directory\n"
        )
        assert running.process.wait(BOUND_S) == 2


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """One process for the tests that leave nothing behind; a function that connects to it."""
    path = tmp_path_factory.mktemp("qtest") / "bus"
    with Running("-m", "8M", *NIC[:1], NIC[1] + f"ne2k_pci,addr={SLOT}", "-net", "user",
                 "-qtest", f"unix:{path},server=on,wait=off") as running:  # fmt: skip
        yield lambda: QtestClient.unix(str(path))
        assert running.end() == 0


def test_ram_is_as_large_as_asked_for(machine):
    client = machine()
    client.command("writel 0x7ffffc 0x12345678")
    assert client.readl(0x7FFFFC) == 0x12345678
    client.command("writel 0x800000 0x12345678")
    assert client.readl(0x800000) == 0xFFFFFFFF
    client.close()


def test_nothing_is_configured_before_the_client_does_it(machine):
    client = machine()
    assert client.config(SLOT, 0x04, 2) == 0
    assert client.config(SLOT, 0x10) == 1
    assert client.config(1, 0x60) == 0x80808080
    client.close()


def test_the_nat_has_answered_when_settle_has(machine):
    """No polling: each answer is there after one line."""
    client = machine()
    client.set_config(SLOT, 0x10, IO)
    client.set_config(SLOT, 0x04, 1, 2)
    for _ in range(20):
        nic = Ne2000(client, IO, LINE)
        nic.start()
        nic.send(arp_request())
        client.command("settle")
        assert nic.inb(7) & 1
    before = int(client.command("clock_step 1"))
    for step in range(20):
        nic = Ne2000(client, IO, LINE)
        nic.start()
        nic.send(arp_request())
        assert int(client.command("clock_step 1000")) == before + 1000 * (step + 1)
        assert nic.inb(7) & 1
    client.set_config(SLOT, 0x04, 0, 2)
    client.set_config(SLOT, 0x10, 0)
    client.close()


def test_the_example_of_the_docs(tmp_path):
    page = (Path(__file__).parents[4] / "docs" / "qtest.md").read_text()
    shell, python = (re.search(rf"```{kind}\n(.*?)```", page, re.DOTALL)[1] for kind in ("sh", "python"))
    path = f"{tmp_path}/bus"
    words = shell.replace("/tmp/bus", path).split()
    assert words[:2] == ["tapnet", "run"]
    with Running(*words[2:]):
        QtestClient.unix(path).close()
        example = [sys.executable, "-c", python.replace("/tmp/bus", path)]
        assert subprocess.check_output(example, text=True, timeout=BOUND_S) == "OK 0x813910ec\n"
