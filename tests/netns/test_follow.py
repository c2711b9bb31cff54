"""The card follows its guest's interface: another address, promiscuous mode; as a real driver's card does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.netns.exec_kit import Runner, root_runner, user_runner
from tests.pings import lossless, patient
from tests.waiting import BOUND_S

MODELS = ("ne2k_pci", "ne2k_isa", "rtl8139", "rtl8139,rev=0x10", "pcnet")
CASES = [*(("root", model) for model in MODELS), ("user", "ne2k_pci")]
STRANGER = """
import select, socket, subprocess, sys, time

def open_(name, kind):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(kind))
    s.bind((name, kind))
    return s

out, into = open_("eth1", 0x88b5), open_("eth0", 0x88b5)
source = out.getsockname()[4]

def heard():
    "What of one frame to a stranger and one to all comes to eth0."
    for to, mark in ((b"\\2\\0\\0\\0\\0\\x99", b"stranger"), (b"\\xff" * 6, b"all")):
        out.send(to + source + b"\\x88\\xb5" + mark.ljust(50, b"."))
    seen = set()
    end = time.monotonic() + 60
    while b"all" not in seen and time.monotonic() < end:
        if select.select([into], [], [], 1)[0]:
            seen.add(into.recv(2000)[14:64].rstrip(b"."))
    assert b"all" in seen, seen
    return b"stranger" in seen

def until(wanted):
    end = time.monotonic() + 60
    while heard() != wanted:
        assert time.monotonic() < end, f"never {wanted}"

assert not heard()
subprocess.run(["ip", "link", "set", "eth0", "promisc", "on"], check=True)
until(True)
subprocess.run(["ip", "link", "set", "eth0", "promisc", "off"], check=True)
until(False)
sniffer = open_("eth0", 3)  # what tcpdump does
sniffer.setsockopt(263, 1, socket.if_nametoindex("eth0").to_bytes(4, sys.byteorder) + b"\\1\\0" + bytes(10))
until(True)
sniffer.close()
until(False)
print("followed")
"""


@pytest.fixture
def tapnet(who: str, tmp_path: Path) -> Runner:
    return root_runner(tmp_path) if who == "root" else user_runner(tmp_path)


@pytest.mark.parametrize(("who", "model"), CASES)
def test_another_address(tapnet: Runner, model: str) -> None:
    """Under way, and again; the interface may have another name by then."""
    done = tapnet.run(
        "for mac in 52:54:00:aa:bb:cc 52:54:00:00:00:07; do "
        "ip link set eth0 address $mac; "
        "ping -q -c 30 -A -W 2 10.0.2.2 >/dev/null; "  # until tapnet has heard of it
        f"ping {patient(20)} -A 10.0.2.2 || exit 1; done; "
        "ip link set eth0 down; ip link set eth0 name lan0; ip link set lan0 address 52:54:00:11:22:33 up; "
        "ip route add default via 10.0.2.2; "
        f"ping -q -c 30 -A -W 2 10.0.2.2 >/dev/null; ping {patient(20)} -A 10.0.2.2",
        *("-net", f"nic,model={model}", "-net", "user"),
        seconds=BOUND_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.split("ping statistics")
    assert len(said) == 4
    for one in said[:3]:
        lossless(one, 20)


@pytest.mark.parametrize(("who", "model"), CASES)
def test_promiscuous_only_where_asked(tapnet: Runner, model: str) -> None:
    done = tapnet.run(
        [sys.executable if tapnet.name == "root" else "python3", "-c", STRANGER],
        *("-net", f"nic,model={model}", "-net", "nic,model=direct", "-net", "user"),
        seconds=BOUND_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "followed\n"
