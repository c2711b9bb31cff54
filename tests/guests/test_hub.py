"""Several VMs on one hub; what befalls one of them leaves the others alone."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest

from tests.guests import vm
from tests.guests.scene import LEASE
from tests.pings import lossless
from tests.waiting import BOUND_S

MIB = 1 << 20
SOCKETS = ("a.sock", "b.sock")
LOAD = {
    "a.sock": "insmod /lib/m/mii.ko && insmod /lib/m/8139cp.ko",
    "b.sock": "insmod /lib/m/mii.ko && insmod /lib/m/pcnet32.ko",
}


class Pair:
    """Two VMs, an RTL8139C+ and a PCnet, on one hub with the NAT."""

    def __init__(self, lab: vm.Lab, user: str = "user") -> None:
        self.lab = lab
        self.tapnet = lab.tapnet(
            *("-net", "nic,model=rtl8139,vfio-user=a.sock"),
            *("-net", "nic,model=pcnet,vfio-user=b.sock"),
            *("-net", user),
        )
        self.vms = {path: lab.vm(path, wait=False) for path in SOCKETS}
        for path in SOCKETS:
            self.vms[path].booted()
            self.up(path)
        self.together()

    def together(self) -> None:
        """On one processor."""
        for process in (self.tapnet.process, *(one.process for one in self.vms.values())):
            vm.pin(process.pid, vm.cpus()[-1:])

    def up(self, path: str) -> None:
        """Driver and lease."""
        self.vms[path].run(f"{LOAD[path]}; ip link set eth0 up; {LEASE}")

    def address(self, path: str) -> str:
        """What DHCP gave it."""
        found = re.search(r"inet (\S+)/24", self.vms[path].run("ip addr show dev eth0"))
        assert found
        return found.group(1)

    def boot(self, path: str) -> None:
        """A new VM on a socket."""
        self.vms[path] = self.lab.vm(path)
        self.up(path)
        self.together()


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with vm.lab() as lab:
        yield Pair(lab)


def ping(one: vm.Vm, address: str, count: int = 20) -> None:
    said = one.run(f"ping -A -c {count} -W 5 {address}")
    lossless(said, count)


def test_each_has_an_address_and_they_ping_each_other(pair: Pair) -> None:
    a, b = (pair.address(path) for path in SOCKETS)
    assert {a, b} == {"10.0.2.15", "10.0.2.16"}
    ping(pair.vms["a.sock"], b)
    ping(pair.vms["b.sock"], a)


def test_they_transfer_to_each_other(pair: Pair) -> None:
    for sender, receiver in (SOCKETS, SOCKETS[::-1]):
        one, other = pair.vms[sender], pair.vms[receiver]
        one.run(
            f"killall httpd 2>/dev/null; dd if=/dev/urandom of=/www/f bs=4096 count={MIB // 4096} 2>/dev/null"
        )
        one.run("httpd -p 80 -h /www")
        expected = one.run("md5sum < /www/f").split()[0]
        said = other.run(f"wget -q -O - http://{pair.address(sender)}/f | md5sum", 60)
        assert said.split()[0] == expected


def test_garbage_and_kill_9_on_one_socket_leave_the_other_alone(pair: Pair) -> None:
    """A flood between NAT and b goes on while a's QEMU dies and nonsense comes to its socket."""
    b = pair.vms["b.sock"]
    flood = b.start("ping -A -c 400 -W 5 10.0.2.2")
    pair.vms["a.sock"].start("ping -A -c 100000 10.0.2.2")
    pair.vms["a.sock"].kill()
    path = pair.lab.folder / "a.sock"
    for nonsense in (b"\xff" * 64, b"GET / HTTP/1.0\r\n\r\n", b"\1\0\1\0\x10\0\0\0\0\0\0\0\0\0\0\0"):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(BOUND_S)
            client.connect(str(path))
            client.sendall(nonsense)
            assert client.recv(100) == b""  # closed
    status, said = b.finish(flood)
    assert status == 0
    lossless(said, 400)
    assert pair.tapnet.process.poll() is None
    assert len(re.findall(r"session ended", pair.tapnet.output())) == 4  # one line for each


def test_a_new_vm_on_the_socket_of_the_killed_one(pair: Pair) -> None:
    if pair.vms["a.sock"].process.poll() is None:
        pair.vms["a.sock"].kill()
    pair.boot("a.sock")
    ping(pair.vms["a.sock"], pair.address("b.sock"))
    ping(pair.vms["a.sock"], "10.0.2.2")


def test_tapnet_ends_cleanly_under_running_vms(pair: Pair) -> None:
    """QEMU lives on with dead cards; sockets are gone, nothing was written about a fault of ours."""
    pair.tapnet.close()
    assert pair.tapnet.process.returncode == 0
    assert "Traceback" not in pair.tapnet.output()
    assert not [path for path in SOCKETS if (pair.lab.folder / path).exists()]
    for path in SOCKETS:
        assert pair.vms[path].run("echo alive").strip() == "alive"
        assert pair.vms[path].status("timeout 3 ping -A -c 1 -W 1 10.0.2.2") != 0
