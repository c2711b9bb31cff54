"""The first block of docs/vm.md, as it stands there but for the paths, gives a VM that works; README.md has the same."""

from __future__ import annotations

import re
import shlex

from tests.guests import kit, vm
from tests.guests.scene import LEASE

SOCKET = "/tmp/nic.sock"


def test_three_lines() -> None:
    block = re.search(r"```bash\n(.*?)```", (kit.ROOT / "docs/vm.md").read_text(), re.DOTALL)
    again = re.search(r"```\n(tapnet run [^`]*vfio-user[^`]*)```", (kit.ROOT / "README.md").read_text())
    assert block and again
    assert shlex.split(again.group(1).replace("\\\n", "")) == shlex.split(block.group(1))
    first, wait, last = block.group(1).strip().splitlines()
    assert wait == f"until [ -S {SOCKET} ]; do sleep 0.1; done"
    words = shlex.split(first)
    assert words[:2] == ["tapnet", "run"] and words[-1] == "&"
    with vm.lab() as lab:
        lab.tapnet(*(word.replace(SOCKET, "nic.sock") for word in words[2:-1]))
        words = shlex.split(last.replace(SOCKET, f"{lab.inside}/nic.sock"))
        assert words[0] == "qemu-system-x86_64" and words[-1] == "disk.img"
        one = lab.vm(extra=words[1:-1], shared=False)
        one.run("insmod /lib/m/mii.ko; insmod /lib/m/8139cp.ko; ip link set eth0 up")
        assert "lease 10.0.2.15/24" in one.run(LEASE)
        assert "ttl=255" in one.run("ping -A -c 3 10.0.2.2")
