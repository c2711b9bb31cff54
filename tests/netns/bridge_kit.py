"""A host in a network namespace whose uplink has everything that can be moved, and how its whole state reads.

Run as a program inside a namespace, it breaks ``tapnet bridge`` off before each of its changes in turn:

    python -m tests.netns.bridge_kit up|down error|signal|kill STRIDE
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from typing import Any

from tests import apart
from tests.netns.support import sh, until_sync
from tests.waiting import BOUND_S

VOLATILE = {
    "ifindex", "valid_life_time", "preferred_life_time", "link_index", "expires", "operstate", "tentative", "linkinfo",
    "qdisc", "txqlen", "used", "refcnt", "confirmed", "updated", "probes",
}  # fmt: skip
HOST = """
link set lo up
link add eth0 type veth peer name peer0
link add eth1 type veth peer name peer1
link set peer0 up
link set peer1 up
link set eth1 up
link set eth0 up
addr add 172.16.0.1/24 dev eth1
addr add 192.168.5.2/24 dev eth0
addr add 192.168.5.3/24 dev eth0
addr add 10.9.0.1 peer 10.9.0.2/32 dev eth0
addr add 192.168.6.2/24 dev eth0 metric 50 label eth0:x valid_lft 50000 preferred_lft 40000
addr add 2001:db8::2/64 dev eth0 nodad
addr add 2001:db8:1::2/64 dev eth0 nodad noprefixroute
route add default via 192.168.5.1 metric 100 mtu lock 1400 advmss 1300
route add 10.1.0.0/16 nexthop via 192.168.5.1 weight 3 nexthop via 192.168.5.9
route add 10.2.0.0/16 via 192.168.5.1 table 100 src 192.168.5.3
route add 10.3.0.0/16 via inet6 2001:db8::1 dev eth0
route add 10.4.0.0/16 via 7.7.7.7 dev eth0 onlink proto static
route add 10.5.0.0/16 via 10.3.0.1 dev eth0 onlink
route add 10.6.0.0/16 via 172.16.0.9 src 192.168.5.2
route add 10.7.0.0/16 nexthop via 192.168.5.1 nexthop via 172.16.0.9
-6 route add default via fe80::1 dev eth0 metric 77 expires 50000
-6 route add 2001:db8:5::/48 nexthop via 2001:db8::1 dev eth0 nexthop via 2001:db8::7 dev eth0
-6 route add 2001:db8:6::/48 via 2001:db8::1 table 100 src 2001:db8::2
rule add iif eth0 table 100 priority 200
rule add from 192.168.5.3 oif eth0 table 100 priority 201
-6 rule add oif eth0 table 100
neigh add 192.168.5.77 lladdr 02:00:00:00:00:77 dev eth0
neigh add proxy 192.168.5.78 dev eth0
"""


def make_host(name: str) -> None:
    """In namespace ``name``; without duplicate address detection, which takes a second each time."""
    sh(f"ip netns exec {name} sysctl -qw net.ipv6.conf.default.accept_dad=0")
    for line in HOST.strip().splitlines():
        sh(f"ip -n {name} {line}")
    settled(name)


def forked(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """``tapnet WORDS`` in namespace ``name``, without another start of the program."""
    return subprocess.CompletedProcess(list(words), *apart.call(apart.tapnet, name, words))


def settled(name: str) -> None:
    """No address is under duplicate detection any more."""
    until_sync(lambda: "tentative" not in sh(f"ip -n {name} addr"), "addresses")


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _clean(what) for key, what in value.items() if key not in VOLATILE}
    if isinstance(value, list):
        return [_clean(one) for one in value]
    return value


def state(prefix: str) -> dict[str, Any]:
    """Everything that ``ip`` shows of a namespace; ``prefix``: options of ip that lead there."""
    found = {}
    for family, questions in (
        (
            "",
            ("link", "addr", "route show table all", "rule", "neigh show nud permanent", "neigh show proxy"),
        ),
        ("-6", ("rule",)),
    ):
        words = ["ip", *prefix.split(), *family.split(), "-d", "-j", "-batch", "-"]
        done = subprocess.run(
            words, input="\n".join(questions), capture_output=True, text=True, timeout=BOUND_S
        )
        assert done.returncode == 0, done.stderr
        text = done.stdout.lstrip()
        for question in questions:
            if text.startswith("[") or not text:
                rows, end = json.JSONDecoder().raw_decode(text)
                text = text[end:].lstrip()
            clean = _clean(rows)
            found[f"{family} {question}"] = sorted(clean, key=json.dumps) if "route" in question else clean
    return found


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What is not as it was, in words."""
    return [
        f"{what}: {mark} {json.dumps(row)}"
        for what in before
        for mark, rows, other in (("-", before[what], after[what]), ("+", after[what], before[what]))
        for row in rows
        if row not in other
    ] + [f"{what}: order" for what in (" addr",) if before[what] != after[what]]


def renamed(found: dict[str, Any]) -> dict[str, Any]:
    """The same with the names of bridge and uplink swapped."""
    text = re.sub(r"\b(eth0|br0)\b", lambda m: "br0" if m[1] == "eth0" else "eth0", json.dumps(found))
    return dict(json.loads(text))


def main() -> int:
    """Break off at each step, or every STRIDE-th; prints how many there were. 1: something was not put back."""
    from tapnet.lan import bridge
    from tapnet.lan.record import BridgeError, Interrupted
    from tapnet.lan.rtnl import Kernel

    command, how, stride = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with Kernel():
        pass  # imported once, before the forks
    if command == "down":
        bridge.up("br0", "eth0")
        sh("ip addr add 192.168.5.200/24 dev br0")  # what came later belongs to the uplink afterwards, too
        until_sync(lambda: "tentative" not in sh("ip addr"), "addresses")
    before = state("")

    def attempt(step: Any) -> None:
        bridge.up("br0", "eth0", step=step) if command == "up" else bridge.down("br0", step=step)

    for number in range(0, 500, stride):
        steps: list[str] = []

        def step(what: str, steps: list[str] = steps, number: int = number) -> None:
            steps.append(what)
            if len(steps) == number + 1:
                if how == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                elif how == "signal":
                    os.kill(os.getpid(), signal.SIGTERM)
                else:
                    raise OSError(28, what)

        ended = True
        if how == "kill":
            pid = os.fork()
            if pid == 0:
                attempt(step)
                os._exit(0)
            ended = os.waitpid(pid, 0)[1] == 0
            if not ended:  # the next command of any kind finds it
                with contextlib.suppress(BridgeError):
                    bridge.confirm("br0")
        else:
            try:
                attempt(step)
            except (BridgeError, Interrupted):
                ended = False
        if ended:
            print(number)
            return 0
        wrong = differences(before, state(""))
        if wrong:
            print(f"step {number}, {steps[-1] if steps else '?'}:", *wrong, sep="\n")
            return 1
    return 1


if __name__ == "__main__":
    sys.exit(main())
