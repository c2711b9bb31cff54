"""VMs of QEMU with QEMU's own cards, on every wire that QEMU and tapnet share: this machine's QEMU and the kit's, which is newer."""

from __future__ import annotations

import socket

import pytest

from tests.guests import vm
from tests.pings import lossless

CARDS = "insmod /lib/m/mii.ko; insmod /lib/m/8139cp.ko"


def free(kind: int, count: int) -> list[int]:
    """Ports of the loopback that were free a moment ago."""
    socks = [socket.socket(socket.AF_INET, kind) for _ in range(count)]
    for sock in socks:
        sock.bind(("127.0.0.1", 0))
    found = [sock.getsockname()[1] for sock in socks]
    for sock in socks:
        sock.close()
    return found


def wires(inside: str) -> dict[str, tuple[str, str]]:
    """Kind -> QEMU's -netdev and our -net. ``inside``: the folder as QEMU sees it."""
    tcp, udp = free(socket.SOCK_STREAM, 3), free(socket.SOCK_DGRAM, 5)
    inet = "{0}.type=inet,{0}.host=127.0.0.1,{0}.port={1}".format
    unix = "{0}.type=unix,{0}.path={1}".format
    return {
        "listen": (f"socket,listen=127.0.0.1:{tcp[0]}", f"socket,connect=127.0.0.1:{tcp[0]}"),
        "connect": (f"socket,connect=127.0.0.1:{tcp[1]}", f"socket,listen=127.0.0.1:{tcp[1]}"),
        "mcast": 2 * (f"socket,mcast=230.0.0.7:{udp[0]},localaddr=127.0.0.1",),
        "udp": (
            f"socket,udp=127.0.0.1:{udp[1]},localaddr=127.0.0.1:{udp[2]}",
            f"socket,udp=127.0.0.1:{udp[2]},localaddr=127.0.0.1:{udp[1]}",
        ),
        "stream": (f"stream,server=off,{inet('addr', tcp[2])}", f"stream,server=on,{inet('addr', tcp[2])}"),
        "stream unix": (
            f"stream,server=on,{unix('addr', inside + '/s')}",
            f"stream,{unix('addr', 's')},reconnect-ms=100",
        ),
        "dgram": (
            f"dgram,{inet('local', udp[3])},{inet('remote', udp[4])}",
            f"dgram,{inet('local', udp[4])},{inet('remote', udp[3])}",
        ),
        "dgram unix": (
            f"dgram,{unix('local', inside + '/a')},{unix('remote', inside + '/b')}",
            f"dgram,{unix('local', 'b')},{unix('remote', 'a')}",
        ),
    }


@pytest.mark.parametrize(
    "here", [pytest.param(True, id="own", marks=pytest.mark.slow), pytest.param(False, id="kit")]
)
def test_a_vm_with_a_card_on_each_wire(lab: vm.Lab, here: bool) -> None:
    """A lease from our NAT on each of eight cards, and pings, none lost."""
    kinds = wires(str(lab.folder) if here else lab.inside)
    ours, theirs, cards = [], [], []
    for number, (qemu, tapnet) in enumerate(kinds.values()):
        ours += ["-net", f"{tapnet},vlan={number}", "-net", f"user,vlan={number},net=10.1.{number}.0/24"]
        word, _, rest = qemu.partition(",")
        theirs += ["-netdev", f"{word},id=n{number},{rest}"]
        cards.append(f"rtl8139,netdev=n{number},mac=52:54:00:00:00:{number:02x}")
    hub = lab.tapnet(*ours)
    machine = None
    try:
        machine = lab.vm(*cards, extra=theirs, shared=False, here=here)
        machine.run(CARDS)
        for number, kind in enumerate(kinds):
            said = machine.run(
                f"ip link set eth{number} up && udhcpc -i eth{number} -n -q -t 20 -T 2 -s /bin/true 2>&1 && "
                f"ip addr add 10.1.{number}.15/24 dev eth{number} && ping -A -c 20 -W 5 10.1.{number}.2"
            )
            assert f"lease of 10.1.{number}.15 obtained" in said, (kind, said)
            lossless(said, 20)
        shown = hub.monitor("info network")
        assert shown.count("socket: connection from 127.0.0.1:") == 1
    finally:
        if machine is not None:
            machine.close()  # the next one has the same paths
        hub.close()
    assert "Traceback" not in hub.output()
