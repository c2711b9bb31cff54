"""One driver in one VM behind one tapnet: what the tests of drivers do again and again."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from tests.guests import vm
from tests.pings import lossless
from tests.waiting import BOUND_S

MAC = "52:54:00:12:34:56"
KIB, MIB = 1 << 10, 1 << 20


@dataclass(frozen=True)
class Driver:
    """A Linux driver and the card that it is for.

    options  of -net nic. probe  what it says on real hardware. size  of transfers, bytes.
    carrier  whether the card has a link bit that the driver reads
    patience  how often the kernel may find that a transmission took too long: ne2k-pci's limit is 200 ms, and on a
    busy machine the driver's own interrupt routine, which copies by the data port, takes longer
    """

    name: str
    options: str
    modules: tuple[str, ...]
    probe: str
    size: int = 4 * MIB
    carrier: bool = True
    patience: int = 0

    @property
    def card(self) -> str:
        """Its name in tapnet's monitor."""
        return self.options.split(",")[0].removeprefix("model=") + ".0"

    @property
    def load(self) -> str:
        """Shell words that load it."""
        return " && ".join(f"insmod /lib/m/{module}.ko" for module in self.modules)


DRIVERS = (
    Driver(
        "ne2k-pci",
        "model=ne2k_pci",
        ("8390", "ne2k-pci"),
        rf"ne2k-pci 0000:00:\w\w\.0 eth0: RealTek RTL-8029\(AS\) found at 0x[0-9a-f]+, IRQ \d+, {MAC}",
        512 * KIB,
        carrier=False,
        patience=10,
    ),
    Driver(
        "8139too",
        "model=rtl8139,rev=0x10",
        ("mii", "8139too"),
        rf"8139too 0000:00:\w\w\.0 eth0: RealTek RTL8139 at 0x\S+, {MAC}, IRQ \d+",
    ),
    Driver(
        "8139cp",
        "model=rtl8139",
        ("mii", "8139cp"),
        rf"8139cp 0000:00:\w\w\.0 eth0: RTL-8139C\+ at 0x\S+, {MAC}, IRQ \d+",
    ),
    Driver(
        "pcnet32",
        "model=pcnet",
        ("mii", "pcnet32"),
        rf"pcnet32: PCnet/PCI II 79C970A at 0x[0-9a-f]+, {MAC} assigned IRQ \d+",
    ),
)

COMPLAINTS = re.compile(r"irq .*nobody cared|NETDEV WATCHDOG|transmit.*timed out|Oops|BUG:|Call Trace")


def unharmed(said: str, patience: int) -> None:
    """The kernel has complained about nothing in its log, but for ``patience`` slow transmissions.

    Raises AssertionError with the log round the first complaint.
    """
    rest = re.sub(r".*NETDEV WATCHDOG.*", "", said, count=patience) if patience else said
    found = COMPLAINTS.search(rest)
    assert not found, rest[max(0, found.start() - 1500) : found.end() + 3000]


LEASE = "udhcpc -q -n -t 8 -T 2 -i eth0"


class Scene:
    """A running tapnet with one card, and a VM. ``again``: the VM survives a reboot of its guest."""

    def __init__(self, lab: vm.Lab, host: vm.Host, driver: Driver) -> None:
        self.lab, self.host, self.driver = lab, host, driver
        self.socket = f"{driver.name}.sock"
        self.tapnet = lab.tapnet(
            *("-net", f"nic,{driver.options},vfio-user={self.socket}"),
            *("-net", f"user,resolver=127.0.0.1:{host.dns_port}"),
        )
        self.vm = self.boot()

    def boot(self) -> vm.Vm:
        """A VM on the socket, up to its shell."""
        self.vm = self.lab.vm(self.socket, again=True)
        self.together()
        return self.vm

    def together(self) -> None:
        """Server and QEMU on one processor: a register access is two to three times faster."""
        where = vm.cpus()[-1:]
        vm.pin(self.tapnet.process.pid, where)
        vm.pin(self.vm.process.pid, where)

    def up(self) -> None:
        """Driver loaded, lease there."""
        driver = self.driver
        if self.vm.status("ip addr show dev eth0 | grep -q 'inet 10.0.2.15/24'"):
            self.vm.run(f"[ -d /sys/class/net/eth0 ] || {{ {driver.load}; }}; ip link set eth0 up; {LEASE}")

    def ping(self, address: str = "10.0.2.2", count: int = 3, size: int = 56) -> str:
        """Pings that must all be answered; what ping said."""
        said = self.vm.run(f"ping -A -c {count} -s {size} -W 5 {address}", 60 + count / 5)
        lossless(said, count)
        return said

    def reachable(self) -> None:
        """Until the first answer: after a change of the carrier the kernel's queue comes up in its own time."""
        self.vm.run(
            "i=0; until ping -A -c 1 -W 1 10.0.2.2 >/dev/null; do i=$((i+1)); [ $i -lt 20 ] || exit 1; done"
        )

    def interrupts(self) -> int:
        """How often the card's handler was called."""
        line = self.vm.run("grep eth0 /proc/interrupts")
        return sum(int(word) for word in re.findall(r"(?<=\s)\d+(?=\s)", line.split(":", 1)[1]))

    def quiet(self) -> None:
        """The kernel has complained about nothing since it was up."""
        unharmed(self.vm.run("dmesg"), self.driver.patience)

    def url(self, size: int, family: int = 4) -> str:
        """Where the host serves that many bytes."""
        host = f"[fec0::2]:{self.host.port6}" if family == 6 else f"10.0.2.2:{self.host.port}"
        return f"http://{host}/{size}"

    def download(self, size: int, seconds: float = BOUND_S, family: int = 4) -> None:
        """To /tmp/f, checked."""
        said = self.vm.run(f"wget -q -O /tmp/f {self.url(size, family)} && md5sum < /tmp/f", seconds)
        assert said.split()[0] == hashlib.md5(self.host.content[:size]).hexdigest(), said

    def upload(self, size: int, seconds: float = BOUND_S) -> None:
        """/tmp/f back to the host, checked."""
        self.host.uploads.clear()
        head = f"POST /{size} HTTP/1.0\\r\\nContent-Length: {size}\\r\\n\\r\\n"
        said = self.vm.run(f"{{ printf '{head}'; cat /tmp/f; }} | nc 10.0.2.2 {self.host.port}", seconds)
        assert " 200 " in said
        assert self.host.uploads == [self.host.content[:size]]
