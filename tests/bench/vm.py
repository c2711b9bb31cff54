"""From a real VM by vfio-user: MB/s of each card beside QEMU's built-in card of the same model in the same VM.

    python -m tests.bench.vm [MODEL...] [--spread]

For each model one VM with both cards, its one driver serving both: ours behind tapnet's NAT, QEMU's behind its own
(``-netdev user``). HTTP download and upload, the best of ``ROUNDS``. Then register accesses per second as the guest
makes them (``/dev/port``), and as a bare client on the socket gets them answered. ``--spread``: server and QEMU on two
processors, as the scheduler puts them, instead of one.

Results as JSON below .benchmarks/. Needs root (the guest kit).
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import time
from collections.abc import Sequence

from tapnet.guest.vfio_user import wire
from tests.guests import kit, vm

MIB = 1 << 20
ROUNDS = 3
INBS = 256 * 40
CALLS = 20_000
# QEMU's name, our options, modules, bytes
MODELS = {
    "ne2k_pci": ("ne2k_pci", "model=ne2k_pci", ("8390", "ne2k-pci"), MIB // 4),
    "rtl8139": ("rtl8139", "model=rtl8139", ("mii", "8139cp"), 4 * MIB),
    "rtl8139,rev=0x10": (None, "model=rtl8139,rev=0x10", ("mii", "8139too"), 4 * MIB),
    "pcnet": ("pcnet", "model=pcnet", ("mii", "pcnet32"), 4 * MIB),
}


def timed(one: vm.Vm, command: str) -> float:
    """Seconds of a guest's command."""
    began = time.monotonic()
    one.run(command, 120)
    return time.monotonic() - began


def speeds(one: vm.Vm, host: vm.Host, gateway: str, size: int) -> tuple[float, float]:
    """(download, upload) in MB/s."""
    url = f"http://{gateway}:{host.port}/{size}"
    down = min(timed(one, f"wget -q -O /tmp/f {url}") for _ in range(ROUNDS))
    head = f"POST /{size} HTTP/1.0\\r\\nContent-Length: {size}\\r\\n\\r\\n"
    post = f"{{ printf '{head}'; cat /tmp/f; }} | nc {gateway} {host.port} >/dev/null"
    up = min(timed(one, post) for _ in range(ROUNDS))
    return size / 1e6 / down, size / 1e6 / up


def calls(path: str) -> float:
    """Register reads per second of a bare client, one at a time."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.sendall(wire.HEADER.pack(1, wire.VERSION, 20, 0, 0) + bytes(4))
        client.recv(4096)
        ask = wire.HEADER.pack(2, wire.REGION_READ, 32, 0, 0) + wire.ACCESS.pack(0, 0, 1)
        began = time.monotonic()
        for _ in range(CALLS):
            client.send(ask)
            client.recv(4096)
        return CALLS / (time.monotonic() - began)


def measure(model: str, host: vm.Host, spread: bool) -> dict[str, float]:
    """One model's figures."""
    builtin, options, modules, size = MODELS[model]
    found: dict[str, float] = {}
    where = vm.cpus() if spread else vm.cpus()[-1:]
    with vm.lab() as lab:
        tapnet = lab.tapnet("-net", f"nic,{options},vfio-user=card.sock", "-net", "user")
        vm.pin(tapnet.process.pid, where)
        found["client calls/s"] = calls(str(lab.folder / "card.sock"))
        extra: tuple[str, ...] = ()
        if builtin:
            extra = (
                "-netdev",
                "user,id=n,net=10.0.3.0/24",
                "-device",
                f"{builtin},netdev=n,mac=52:54:00:12:34:99",
            )
        one = lab.vm("card.sock", extra=extra)
        vm.pin(one.process.pid, where)
        one.run(" && ".join(f"insmod /lib/m/{module}.ko" for module in modules))
        for mac, net, prefix in (("56", 2, "ours"), ("99", 3, "QEMU's"))[: 2 if builtin else 1]:
            name = one.run(f"grep -l 52:54:00:12:34:{mac} /sys/class/net/eth*/address").split("/")[4]
            one.run(f"ip addr add 10.0.{net}.15/24 dev {name}; ip link set {name} up")
            one.run(
                f"i=0; until ping -A -c 1 -W 1 10.0.{net}.2 >/dev/null; do i=$((i+1)); [ $i -lt 20 ]; done"
            )
            found[f"{prefix} down"], found[f"{prefix} up"] = speeds(one, host, f"10.0.{net}.2", size)
            if model == "rtl8139":  # a BAR without side effects on reading
                base = one.run(f"head -n 1 /sys/class/net/{name}/device/resource").split()[0]
                one.run(f"ip link set {name} down")
                loop = f"for i in $(seq {INBS // 256}); do dd if=/dev/port of=/dev/null bs=256 skip={int(base, 16) // 256} count=1"
                found[f"{prefix} inb/s"] = INBS / timed(one, f"{loop} 2>/dev/null; done")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="tests.bench.vm")
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--spread", action="store_true")
    given = parser.parse_args(arguments)
    host = vm.Host()
    results = {}
    for model in given.models:
        results[model] = found = measure(model, host, given.spread)
        print(f"{model:18}", "  ".join(f"{what} {value:,.2f}" for what, value in found.items()), flush=True)
    host.close()
    folder = kit.ROOT / ".benchmarks"
    folder.mkdir(exist_ok=True)
    (folder / "vm.json").write_text(json.dumps({"spread": given.spread, "results": results}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
