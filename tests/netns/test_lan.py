"""A guest on a real LAN (T1): real clients and servers, every card, the frames themselves on the far side."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import select
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.exec_kit import ROOT, Runner
from tests.netns.lan_kit import Lan, Running, inside, links, tapnet, whole_lan, within
from tests.netns.support import sh, until_sync
from tests.pings import lossless, patient
from tests.waiting import BOUND_S

__all__ = ["tapnet"]  # a fixture

CARDS = ("ne2k_pci", "ne2k_isa", "rtl8139", "pcnet")
ETH_P_ALL = 3
SOL_PACKET, PACKET_AUXDATA = 263, 8
VLAN_VALID, TPID_VALID = 1 << 4, 1 << 6
UDP_SEGMENT = 103


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    with whole_lan() as made:
        yield made


@contextlib.contextmanager
def guest_of(lan: Lan, tapnet: Runner, model: str, more: str = "", tap: str = "") -> Iterator[Running]:
    """tapnet on the host, its guest on the LAN."""
    machine = ("-M", "isapc") if model.endswith("isa") else ()
    nic = f"nic,model={model},netns=/run/netns/{lan.guest},dhcp=on{more}"
    with Running(
        inside(lan.host, tapnet), *machine, "-net", nic, "-net", f"tap,ifname=tap0,br=br0{tap}"
    ) as running:
        try:
            until_sync(lambda: address(lan), "a lease")
            yield running
        finally:
            running.stop()
            until_sync(lambda: "eth0" not in links(lan.guest), "the guest's interface is gone")


def address(lan: Lan, family: int = 4) -> str:
    """The guest's global address."""
    for row in json.loads(
        sh(f"ip -n {lan.guest} -{family} -j addr show dev eth0 scope global", check=False) or "[]"
    ):
        for one in row.get("addr_info", ()):
            return str(one["local"])
    return ""


def packet_socket(name: str, device: str = "eth0") -> socket.socket:
    """An AF_PACKET socket in a namespace that tells VLAN tags."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        made.bind((device, ETH_P_ALL))
        made.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        return made

    return within(name, make)


def mac(name: str, device: str = "eth0") -> bytes:
    return bytes.fromhex(str(links(name)[device]["address"]).replace(":", ""))


def frames(taker: socket.socket, mark: bytes, until: bytes) -> list[bytes]:
    """Frames with ``mark`` in them up to the one with ``until``, tags put back where the kernel had taken them out."""
    found = []
    end = time.monotonic() + BOUND_S
    while time.monotonic() < end:
        if not select.select([taker], [], [], 1)[0]:
            continue
        data, ancillary, _, _ = taker.recvmsg(70000, 256)
        for level, kind, body in ancillary:
            if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
                status, _, _, _, _, tci, tpid = struct.unpack_from("=IIIHHHH", body)
                if status & VLAN_VALID:
                    tag = struct.pack("!HH", tpid if status & TPID_VALID else 0x8100, tci)
                    data = data[:12] + tag + data[12:]
        if mark in data:
            found.append(data)
        if until in data:
            return found
    raise AssertionError(f"no frame with {until!r}; {len(found)} with the mark")


@pytest.mark.parametrize("model", [*CARDS, "direct"])
def test_a_station_of_the_lan(lan: Lan, tapnet: Runner, model: str) -> None:
    with guest_of(lan, tapnet, model):
        assert address(lan).startswith("192.168.88.") and "192.168.88.1" in sh(f"ip -n {lan.guest} route")
        until_sync(lambda: address(lan, 6).startswith("2001:db8:88:"), "an address by RA")
        pings(lan)
        transfers(lan)
        group_frames(lan)
        tagged_frames(lan)
        if model != "direct":
            strangers(lan)


def pings(lan: Lan) -> None:
    """Both families, both ways, with every station and with the host itself."""
    v4, v6 = address(lan), address(lan, 6)
    for name, last in ((lan.router, 1), (lan.a, 10), (lan.b, 11), (lan.host, 2)):
        for to, back in ((f"192.168.88.{last}", v4), (f"2001:db8:88::{last}", v6)):
            lossless(lan.tell(lan.guest, f"ping {patient(3)} -i 0.01 -s 1400 {to}"), 3)
            lossless(lan.tell(name, f"ping {patient(3)} -i 0.01 {back}"), 3)


def transfers(lan: Lan) -> None:
    """iperf3 from the guest and to it, with a station and with the host; then a station calls the guest."""
    for to in ("192.168.88.10", "192.168.88.2", "2001:db8:88::10"):
        for way in ((), ("-R",)):
            done = json.loads(lan.tell(lan.guest, " ".join(("iperf3 -J -n 1M", *way, "-c", to))))
            moved(done, 1 << 20)
    server = subprocess.Popen(
        f"ip netns exec {lan.guest} iperf3 -s -1".split(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until_sync(lambda: ":5201" in lan.tell(lan.guest, "ss -tln"), "a server in the guest")
        done = json.loads(lan.tell(lan.b, f"iperf3 -J -n 1M -c {address(lan)}"))
        moved(done, 1 << 20)
    finally:
        server.kill()
        server.wait()


def moved(done: dict[str, dict[str, dict[str, int]]], size: int) -> None:
    """iperf3's report; the receiver counts what it had when it was told of the end."""
    assert done["end"]["sum_sent"]["bytes"] >= size and done["end"]["sum_received"]["bytes"] > 0, done


def group_frames(lan: Lan) -> None:
    """A multicast group that the guest is in, and other stations' ARP."""

    def member() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("", 5007))
        made.setsockopt(
            socket.IPPROTO_IP,
            socket.IP_ADD_MEMBERSHIP,
            socket.inet_aton("239.1.2.3") + socket.inet_aton(address(lan)),
        )
        made.settimeout(BOUND_S)
        return made

    def speaker() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("192.168.88.10"))
        return made

    with within(lan.guest, member) as hears, within(lan.a, speaker) as says:
        says.sendto(b"to the group", ("239.1.2.3", 5007))
        assert hears.recv(100) == b"to the group"
    with packet_socket(lan.guest) as taker:
        sh(f"ip -n {lan.a} neigh flush dev eth0")
        lan.tell(lan.a, "ping -c 1 -w 30 192.168.88.11")
        wanted = socket.inet_aton("192.168.88.11")
        found = frames(taker, b"\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01", mac(lan.a))
        assert any(frame[:6] == b"\xff" * 6 and frame[38:42] == wanted for frame in found)


def tagged_frames(lan: Lan) -> None:
    """802.1Q and 802.1ad, the smallest and the largest, both ways, byte for byte."""
    with packet_socket(lan.a) as far, packet_socket(lan.guest) as near:
        for giver, taker, source in ((far, near, mac(lan.a)), (near, far, mac(lan.guest))):
            sent = []
            for number, (tags, size) in enumerate(
                (
                    (b"\x81\x00\x00\x2a", 42),
                    (b"\x81\x00\xef\xff", 1500),
                    (b"\x88\xa8\x00\x07\x81\x00\x00\x08", 100),
                )
            ):
                payload = b"TAGGED%d" % number + os.urandom(size - 7)
                sent.append(b"\xff" * 6 + source + tags + b"\x88\xb5" + payload)
            for frame in sent:
                giver.send(frame)
            assert frames(taker, b"TAGGED", b"TAGGED2") == sent


def strangers(lan: Lan) -> None:
    """A frame to somebody else is flooded to the TAP; the guest gets it only where it asked for all."""
    with packet_socket(lan.a) as far, packet_socket(lan.guest) as near:

        def heard() -> bool:
            for to, mark in ((b"\x02\0\0\0\0\x99", b"STRANGE-other"), (b"\xff" * 6, b"STRANGE-all")):
                far.send(to + mac(lan.a) + b"\x88\xb5" + mark.ljust(50, b"."))
            return any(b"STRANGE-other" in frame for frame in frames(near, b"STRANGE", b"STRANGE-all"))

        assert not heard()
        sh(f"ip -n {lan.guest} link set eth0 promisc on")
        until_sync(heard, "promiscuous")
        sh(f"ip -n {lan.guest} link set eth0 promisc off")
        until_sync(lambda: not heard(), "no longer")


def test_nobody_is_promiscuous_but_for_the_bridge(lan: Lan, tapnet: Runner) -> None:
    def promiscuity(name: str) -> dict[str, object]:
        return {n: link["promiscuity"] for n, link in links(name).items() if n != "lo"}

    before = promiscuity(lan.host)
    with guest_of(lan, tapnet, "ne2k_pci"):
        assert promiscuity(lan.host) == before | {"tap0": 1}, "the bridge asks it of its members"
        assert promiscuity(lan.guest) == {"eth0": 0}
    nic = f"nic,netns=/run/netns/{lan.guest}"
    with Running(inside(lan.host, tapnet), "-net", nic, "-net", "tap,ifname=tap9"):
        assert promiscuity(lan.host) == before | {"tap9": 0}
    until_sync(lambda: "eth0" not in links(lan.guest), "the guest's interface is gone")


def test_the_five_commands_of_the_manual(tapnet: Runner) -> None:
    """docs/tap.md, "From nothing to a bridged guest", line by line in one shell of a host without a bridge."""
    text = (ROOT / "docs/tap.md").read_text()
    block = text.split("## From nothing to a bridged guest", 1)[1].split("```")[1]
    lines = [line.partition("  #")[0].strip() for line in block.strip().splitlines()]
    assert len(lines) == 5
    program = tapnet.home / "tapnet"
    program.write_text(f'#!/bin/sh\nexec {" ".join(tapnet.argv())} "$@"\n')
    program.chmod(0o755)
    box = f"box{os.getpid()}"
    lines = [line.replace("box", box) for line in lines]
    wait = f"i=0; until ip -n {box} -4 addr show eth0 | grep -q 192.168.88; do i=$((i+1)); [ $i -lt 600 ] || exit 9; sleep 0.1; done"
    script = [
        f"PATH={program.parent}:$PATH",
        f"trap 'kill $run 2>/dev/null; ip netns del {box}; rm -f /run/netns/{box}' EXIT",
        f"{lines[0]} || true",  # it may have something to say of the machine that runs the tests
        f"{lines[1]} || exit 1",
        f"{lines[2]} || exit 2",
        f"{lines[3]} run=$!",
        wait,
        f"{lines[4]} || exit 5",
        "ping -c 1 -w 30 192.168.88.10 || exit 6",
        f"ip netns exec {box} ping -c 1 -w 30 192.168.88.2 || exit 7",
        "kill $run; wait $run; run=",
        "tapnet bridge down br0 || exit 8",
    ]
    with whole_lan(bridged=False) as lan:
        done = subprocess.run(
            ["ip", "netns", "exec", lan.host, "sh", "-c", "\n".join(script)],
            env=tapnet.env, capture_output=True, text=True, timeout=2 * BOUND_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert "3 packets transmitted, 3 received" in done.stdout
        assert sorted(links(lan.host)) == ["eth0", "lo"]
        lan.tell(lan.host, "ping -c 1 -w 30 192.168.88.1")


# ---- offload -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def tcpdump(lan: Lan, name: str, device: str, file: Path, expression: str) -> Iterator[None]:
    """A capture in a namespace, whole frames."""
    words = f"ip netns exec {name} tcpdump -U -s 0 -B 8192 -Q in -i {device} -w {file} {expression}"
    process = subprocess.Popen(words.split(), stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        while "listening on" not in process.stderr.readline():
            assert process.poll() is None
        yield
    finally:
        process.terminate()
        process.wait(BOUND_S)


def lengths(file: Path, expression: str = "") -> list[int]:
    said = sh(f"tcpdump -e -nn -r {file} {expression}")
    return [int(size) for size in re.findall(r"ethertype IPv[46] \(0x[0-9a-f]+\), length (\d+)", said)]


def test_super_frames_have_right_checksums_on_the_far_side(lan: Lan, tapnet: Runner, tmp_path: Path) -> None:
    """TCP and UDP of both families leave the guest as super-frames of up to 64 KiB, and the TAP too; the host's kernel cuts
    them for its uplink, which can do nothing by itself here. Every frame that a station gets is right.
    """
    lan.tell(lan.host, "ethtool -K eth0 tx off tso off gso off")
    with guest_of(lan, tapnet, "direct"):
        until_sync(lambda: address(lan, 6).startswith("2001:db8:88:"), "an address by RA")
        tap, far = tmp_path / "tap.pcap", tmp_path / "far.pcap"
        until_sync(lambda: lan.tell(lan.guest, "ping -c 1 -w 30 192.168.88.10"), "a ping")
        with (
            tcpdump(lan, lan.host, "tap0", tap, "tcp or udp"),
            tcpdump(lan, lan.a, "eth0", far, "tcp or udp"),
        ):
            for where in ("192.168.88.10", "2001:db8:88::10"):
                tcp(lan, where)
                for size in (1, 18, 1000, 60000):
                    udp(lan, where, size)
        sizes, arrived = lengths(tap), lengths(far)
        assert max(sizes) > 60000 and min(sizes) <= 60
        assert max(arrived) <= 1514 and min(arrived) <= 60
        judged = sh(f"tcpdump -vv -nn -r {far}")
        assert judged.count("(correct)") + judged.count("[udp sum ok]") >= len(arrived) - 8
        for word in ("incorrect", "bad udp cksum", "bad cksum"):
            assert word not in judged, [line for line in judged.splitlines() if word in line][:5]
        assert max(lengths(tap, "udp")) > 40000, "UDP by super-frames too"


def tcp(lan: Lan, where: str) -> None:
    """4 MiB to a station, checked there."""
    family = socket.AF_INET6 if ":" in where else socket.AF_INET
    data = os.urandom(4 << 20)
    with within(lan.a, lambda: socket.create_server((where, 5010), family=family)) as server:
        out = within(lan.guest, lambda: socket.create_connection((where, 5010), BOUND_S))
        taken, _ = server.accept()
        with out, taken:
            out.setblocking(False)
            digest, left, got = hashlib.sha256(), memoryview(data), 0
            end = time.monotonic() + BOUND_S
            while got < len(data):
                assert time.monotonic() < end
                readable, writable, _ = select.select([taken], [out] if left else [], [], 1)
                if writable:
                    with contextlib.suppress(BlockingIOError):
                        left = left[out.send(left) :]
                if readable:
                    piece = taken.recv(1 << 20)
                    got += len(piece)
                    digest.update(piece)
        assert digest.digest() == hashlib.sha256(data).digest()


def udp(lan: Lan, where: str, size: int) -> None:
    """One send of ``size`` bytes, by UDP_SEGMENT where it is more than a frame."""
    family = socket.AF_INET6 if ":" in where else socket.AF_INET
    data = os.urandom(size)
    segment = 1400

    def bound() -> socket.socket:
        made = socket.socket(family, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        made.bind((where, 5011))
        made.settimeout(BOUND_S)
        return made

    with (
        within(lan.a, bound) as taker,
        within(lan.guest, lambda: socket.socket(family, socket.SOCK_DGRAM)) as giver,
    ):
        if size > segment:
            giver.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, segment)
        giver.sendto(data, (where, 5011))
        got = b""
        while len(got) < size:
            got += taker.recv(65536)
        assert got == data


def test_jumbo_frames(tapnet: Runner) -> None:
    """MTU 9000 all the way: pings that may not be cut, and TCP."""
    with whole_lan(9000) as lan, guest_of(lan, tapnet, "direct", ",mtu=9000", ",mtu=9000"):
        assert links(lan.host)["tap0"]["mtu"] == 9000 == links(lan.host)["br0"]["mtu"]
        for to in ("192.168.88.10", "192.168.88.2"):
            lossless(lan.tell(lan.guest, f"ping {patient(3)} -i 0.01 -M do -s 8972 {to}"), 3)
        lossless(lan.tell(lan.a, f"ping {patient(3)} -i 0.01 -M do -s 8972 {address(lan)}"), 3)
        too_long = lan.tell(lan.guest, "ping -c 1 -w 5 -M do -s 8973 192.168.88.10", check=False)
        assert " 0 received" in too_long
        transfers_of(lan)


def transfers_of(lan: Lan) -> None:
    for way in ("", " -R"):
        done = json.loads(lan.tell(lan.guest, f"iperf3 -J -n 8M{way} -c 192.168.88.10"))
        moved(done, 8 << 20)
