"""``tapnet doctor`` on the LAN side: bridge, its netfilter switches, firewall, forwarding, MTUs. Each only looks.

The classic reasons why a guest on a bridge is mute: the bridge hands its frames to the firewall of the routing host
(bridge-nf-call-iptables), whose FORWARD chain drops them, as Docker and ufw set it up; a drop in a table of family
bridge; a port with a smaller MTU, for which larger frames vanish without a word; a bridge that is down or has no uplink.

Ref: Documentation/networking/bridge.rst, ip-sysctl.rst (accept_ra, forwarding).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ..lan import sysctl
from ..lan.belongings import Link, attribute
from ..lan.rtnl import AF_INET6, Kernel, KernelError
from ..system.finding import Finding
from .firewall import Barrier, barriers

BRIDGE = "br0"  # what --mode tap takes where nothing else is said
_NETFILTER = {"ip": "bridge-nf-call-iptables", "ip6": "bridge-nf-call-ip6tables"}


def _links() -> list[Link]:
    with Kernel() as kernel:
        return kernel.links()


def _uplink() -> str:
    """Where the default route leads, or a word for it."""
    try:
        with Kernel() as kernel:
            links = {link.index: link.name for link in kernel.links()}
            for route in kernel.routes():
                if route["dst_len"] == 0 and attribute(route, "RTA_OIF") in links:
                    return links[attribute(route, "RTA_OIF")]
    except KernelError:
        pass
    return "IF"


def check_bridge(name: str = BRIDGE) -> Finding:
    """The bridge of ``--mode tap``."""
    links = _links()
    bridge = next((link for link in links if link.name == name), None)
    if bridge is None:
        others = [link.name for link in links if link.kind == "bridge"]
        also = f" (there is {', '.join(others)}: -net tap,br={others[0]})" if others else ""
        mend = f"tapnet bridge up {name} --uplink {_uplink()}"
        return Finding(
            "bridge", False, f"there is no bridge {name}, which --mode tap takes{also}", mend, ("tap",)
        )
    if bridge.kind != "bridge":
        return Finding(
            "bridge",
            False,
            f"{name} is no bridge",
            f"use another name: -net tap,br=NAME (not {name})",
            ("tap",),
        )
    if not bridge.up:
        return Finding("bridge", False, f"{name} is down", f"ip link set {name} up", ("tap",))
    members = [link for link in links if link.master == bridge.index]
    if not members:
        mend = f"tapnet bridge up {name} --uplink {_uplink()}"
        return Finding("bridge", False, f"{name} has no member: guests on it reach only this host", mend)
    down = [link.name for link in members if not link.up]
    if down:
        return Finding(
            "bridge", False, f"{down[0]}, a member of {name}, is down", f"ip link set {down[0]} up"
        )
    return Finding("bridge", True, f"{name} is up, with {', '.join(link.name for link in members)}")


def _barriers() -> list[Barrier] | None:
    try:
        return barriers()
    except OSError:
        return None


_HIDDEN = "can be seen by root only"
_AS_ROOT = "run tapnet doctor as root"


def check_bridge_netfilter(root: Path = sysctl.ROOT) -> Finding:
    """Whether bridged frames go through a firewall that drops them."""
    on = [word for word in _NETFILTER.values() if sysctl.read(root / "bridge" / word) == "1"]
    if not on:
        return Finding(
            "bridge-nf", True, "bridged frames do not go through iptables (bridge-nf-call-iptables)"
        )
    found = _barriers()
    if found is None:
        return Finding("bridge-nf", False, f"{on[0]} is 1, and the firewall {_HIDDEN}", _AS_ROOT)
    for barrier in found:
        families = ("ip", "ip6") if barrier.family == "inet" else (barrier.family,)
        if any(_NETFILTER.get(family) in on for family in families):
            mend = "sysctl -w " + " ".join(f"net.bridge.{word}=0" for word in on)
            text = f"bridged frames go through the firewall, which drops them: {barrier.words()}"
            return Finding("bridge-nf", False, text, mend, ("tap",))
    return Finding("bridge-nf", True, f"{on[0]} is 1, but the firewall forwards")


def check_bridge_firewall() -> Finding:
    """Drops in nftables' family bridge."""
    found = _barriers()
    if found is None:
        return Finding(
            "bridge-firewall", False, f"a firewall between the ports of a bridge {_HIDDEN}", _AS_ROOT
        )
    for barrier in found:
        if not barrier.routed:
            mend = barrier.opened()
            text = f"frames from port to port of a bridge are dropped by {barrier.words()}"
            return Finding("bridge-firewall", False, text, mend, ("tap",))
    return Finding("bridge-firewall", True, "no firewall between the ports of a bridge")


def check_firewall() -> Finding:
    """Drops of what is routed: for `tapnet route`."""
    found = _barriers()
    if found is None:
        return Finding("firewall", False, f"a firewall in the way of routed packets {_HIDDEN}", _AS_ROOT)
    for barrier in found:
        if barrier.routed:
            mend = f"{barrier.opened('iifname tap0')} && {barrier.opened('oifname tap0')}"
            text = f"routed packets are dropped by {barrier.words()}: a guest of tapnet route is mute"
            return Finding("firewall", False, text, mend)
    return Finding("firewall", True, "routed packets are forwarded by the firewall")


def check_forwarding(root: Path = sysctl.ROOT) -> Finding:
    """Forwarding can be had, and has not made the host deaf to its router."""
    place = root / "ipv4/conf/all/forwarding"
    value = sysctl.read(place)
    if value != "1" and not (os.access(place, os.W_OK) or os.geteuid() != 0):
        mend = "sysctl -w net.ipv4.ip_forward=1 where this container was started"
        return Finding(
            "forwarding", False, "forwarding is off, and /proc/sys is read-only (tapnet route)", mend
        )
    with Kernel() as kernel:
        names = {link.index: link.name for link in kernel.links()}
        learnt = {
            names[address["index"]]
            for link in names
            for address in kernel.addresses(link)
            if address["family"] == AF_INET6 and address["scope"] == 0
        }
    for name in sorted(learnt):
        conf = root / "ipv6/conf" / name
        if sysctl.read(conf / "forwarding") == "1" and sysctl.read(conf / "accept_ra") == "1":
            text = f"{name} forwards IPv6, and so takes no router advertisements any more"
            return Finding("forwarding", False, text, f"sysctl -w net.ipv6.conf.{name}.accept_ra=2")
    if value == "1":
        return Finding("forwarding", True, "IPv4 forwarding is on")
    return Finding(
        "forwarding", True, "IPv4 forwarding is off; tapnet route switches it on where it needs it"
    )


def check_mtu() -> Finding:
    """A frame that fits one port of a bridge fits all of them."""
    links = _links()
    bridges = [link for link in links if link.kind == "bridge"]
    for bridge in bridges:
        members = [link for link in links if link.master == bridge.index]
        if not members:
            continue
        small, large = min(members, key=lambda m: m.mtu), max(members, key=lambda m: m.mtu)
        if small.mtu != large.mtu:
            text = f"{bridge.name}: {small.name} has MTU {small.mtu} and {large.name} {large.mtu}: larger frames vanish there"
            which, mtu = (small, large.mtu) if small.kind == "tun" else (large, small.mtu)
            return Finding("mtu", False, text, f"ip link set {which.name} mtu {mtu}")
        if bridge.mtu > small.mtu:
            text = f"{bridge.name} has MTU {bridge.mtu}, its members {small.mtu}"
            return Finding("mtu", False, text, f"ip link set {bridge.name} mtu {small.mtu}")
    return Finding(
        "mtu", True, "the members of each bridge have one MTU" if bridges else "no bridge, no MTUs to compare"
    )


CHECKS: tuple[Callable[[], Finding], ...] = (
    check_bridge,
    check_bridge_netfilter,
    check_bridge_firewall,
    check_firewall,
    check_forwarding,
    check_mtu,
)
