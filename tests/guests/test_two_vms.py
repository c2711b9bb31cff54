"""S11 with real machines: two VMs on one user network, a minute of mixed traffic from both at once, and no error.

A card that is flooded from two sides loses frames, as on any hub: a ping or two may go unanswered, no transfer may fail."""

from __future__ import annotations

import hashlib

import pytest

from tests.guests import vm
from tests.guests.test_hub import SOCKETS, Pair

SECONDS = 60
SIZE = 200_000
FEW_LOST = " [12]*[0-9]% packet loss"


@pytest.mark.slow
def test_a_minute_of_mixed_traffic(host: vm.Host) -> None:
    with vm.lab() as lab:
        pair = Pair(lab, f"user,resolver=127.0.0.1:{host.dns_port}")
        addresses = {path: pair.address(path) for path in SOCKETS}
        assert sorted(addresses.values()) == ["10.0.2.15", "10.0.2.16"]
        for path in SOCKETS:
            pair.vms[path].run(f"wget -q -O /www/f http://10.0.2.2:{host.port}/{SIZE}; httpd -p 80 -h /www")
        digest = hashlib.md5(host.content[:SIZE]).hexdigest()
        begun = {}
        for path, peer in zip(SOCKETS, reversed(SOCKETS)):
            acts = {
                "gateway": f"ping -A -c 20 -W 20 10.0.2.2 | grep -q {FEW_LOST!r}",
                "peer": f"ping -A -c 20 -W 20 {addresses[peer]} | grep -q {FEW_LOST!r}",
                "web": f"wget -q -O - http://10.0.2.2:{host.port}/{SIZE} | md5sum | grep -q {digest}",
                "short": f"wget -q -O - http://10.0.2.2:{host.port}/100 | wc -c | grep -qx 100",
                "neighbour": f"wget -q -O - http://{addresses[peer]}/f | md5sum | grep -q {digest}",
                "names": f"nslookup a.example 10.0.2.3 | grep -q {vm.Host.ADDRESS}",
            }
            loops = " ".join(
                f"while [ $(date +%s) -lt $e ]; do if {act}; then echo {name}; else echo FAILED-{name}; fi; "
                f"done >> /tmp/{name} &"
                for name, act in acts.items()
            )
            command = f"e=$(( $(date +%s) + {SECONDS} )); {loops} wait"
            begun[path] = pair.vms[path].start(command), acts
        for path, (token, acts) in begun.items():
            status, said = pair.vms[path].finish(token, SECONDS + 300)
            assert status == 0, said
            for name in acts:
                lines = pair.vms[path].run(f"sort /tmp/{name} | uniq -c").split()
                assert lines[1:] == [name] and int(lines[0]) > 0, f"{path}: {lines}"
        assert "Traceback" not in pair.tapnet.output()
