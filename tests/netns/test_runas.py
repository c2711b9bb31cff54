"""``--runas nobody`` from a tree that nobody may read: what comes late was loaded or opened before.

Every command of every monitor, every kind of net and model of card, and what a guest, a reload and a restart set off, are
done behind the drop. What looks for a module there is written down by a finder that stands in front of all others, so that
also what this machine's nobody could read (Python's own library) is found.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapnet.config import MODELS
from tapnet.monitor.commands.general import BY_QMP, COMMANDS
from tapnet.options.tables import LOG_ITEMS, LOG_LATER, NETS
from tests.netns.exec_kit import ROOT, Runner, root_runner
from tests.netns.lan_kit import Running, inside, lan, links, within
from tests.netns.support import sh, until_sync

__all__ = ["lan"]  # fixture

SECONDS = 60
LIBRARIES = ("click", "pyroute2", "pytun*", "uvloop", "websockets", "dpkt", "*.dist-info")
# The program, and in front of its other finders one that writes down what is looked for behind the drop.
LAUNCH = """
import os, sys
paper = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
from tapnet.system import privilege
drop = privilege.drop
class Asked:
    def find_spec(self, name, path=None, target=None):
        os.write(paper, name.encode() + b"\\n")
def dropping(*args, **words):
    drop(*args, **words)
    sys.meta_path.insert(0, Asked())
    os.write(paper, b"dropped\\n")
privilege.drop = dropping
from tapnet.cli import main
main()
"""


@dataclasses.dataclass
class Place:
    """tapnet in a tree of mode 0700, and a folder of nobody's."""

    tree: Path
    runner: Runner
    asked: Path  # what was looked for
    room: Path

    def late(self) -> list[str]:
        """Modules that were looked for behind the drop."""
        lines = self.asked.read_text().split()
        assert lines and lines[0] == "dropped"
        return sorted(set(lines[1:]))


@pytest.fixture
def place(tmp_path: Path, lan: str) -> Iterator[Place]:
    tree = tmp_path / "tree"
    tree.mkdir(0o700)
    for package in ("tapnet", "slirp", "nic_models"):
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    for pattern in LIBRARIES:
        for one in Path(sysconfig.get_paths()["platlib"]).glob(pattern):
            copy = shutil.copytree if one.is_dir() else shutil.copy
            copy(one, tree / one.name)
    read = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "ls", str(tree)]
    assert subprocess.run(read, capture_output=True).returncode, "nobody can read it"
    room = Path(tempfile.mkdtemp(prefix="tapnet-nobody-"))
    os.chown(room, 65534, 65534)
    room.chmod(0o755)
    root = root_runner(room)
    environment = root.env | {"PYTHONPATH": str(tree), "NOTIFY_SOCKET": str(room / "notify")}
    # -S: no other site-packages than the tree's
    try:
        runner = Runner("root", (sys.executable, "-S"), environment, room)
        yield Place(tree, inside(lan, runner), tmp_path / "asked", room)
    finally:
        shutil.rmtree(room)


class Dropped(Running):
    """``tapnet run --runas nobody`` by the launcher."""

    def __init__(self, place: Place, *options: str) -> None:
        prefix = (*place.runner.prefix, "-c", LAUNCH, str(place.asked))
        whole = dataclasses.replace(place.runner, prefix=prefix)
        super().__init__(_Launched(whole), "--runas", "nobody", *options)  # type: ignore[arg-type]
        self.tapnet = place.runner


class _Launched:
    """A runner whose program is no module."""

    def __init__(self, runner: Runner) -> None:
        self.prefix, self.env, self.home = runner.prefix, runner.env, runner.home

    def argv(self, *words: str) -> list[str]:
        return [*self.prefix, *words]


class Hmp:
    """A person's monitor: every line and what it answered."""

    def __init__(self, path: Path) -> None:
        self.seen: dict[str, str] = {}
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(SECONDS)
        self._socket.connect(str(path))
        self._answer()

    def _answer(self) -> str:
        data = b""
        while not data.endswith(b"(tapnet) "):
            piece = self._socket.recv(65536)
            assert piece, f"it hung up: {data!r}"
            data += piece
        return data.decode().removesuffix("(tapnet) ").replace("\r\n", "\n")

    def ask(self, line: str) -> str:
        self._socket.sendall(line.encode() + b"\n")
        self.seen[line] = self._answer()
        return self.seen[line]

    def well(self, line: str) -> str:
        """One that must work."""
        text = self.ask(line)
        assert not text.startswith("Error"), f"{line}: {text}"
        return text


class Qmp:
    """A machine's monitor."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(SECONDS)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("rb")
        assert "QMP" in json.loads(self._file.readline())
        self.names: set[str] = set()
        self.ask("qmp_capabilities")

    def ask(self, name: str, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
        self.names.add(name)
        message = {"execute": name, "arguments": arguments or {}, "id": name}
        self._socket.sendall(json.dumps(message).encode())
        while (answer := json.loads(self._file.readline())).get("id") != name:
            assert "event" in answer or "id" not in answer, answer
        return answer

    def ask_raw(self, message: bytes) -> None:
        """Whatever it is: it is answered by something."""
        self._socket.sendall(message + b"\n")
        assert self._file.readline()


def clean(place: Place, running: Running) -> None:
    """Nothing was looked for, nothing went wrong that must not."""
    said = running.said()
    assert "a mistake in tapnet" not in said and "Traceback" not in said, said
    assert place.late() == []


def options(place: Place, *more: str) -> tuple[str, ...]:
    room = place.room
    return (
        "-monitor", f"unix:{room}/m,server=on,wait=off",
        "-qmp", f"unix:{room}/q,server=on,wait=off",
        "-qtest", f"unix:{room}/bus,server=on,wait=off",
        *more,
    )  # fmt: skip


@pytest.fixture
def guest(lan: str) -> Iterator[str]:
    """A guest's namespace."""
    sh(f"ip netns add {lan}-g")
    yield f"{lan}-g"
    sh(f"ip netns del {lan}-g", check=False)


# One option of each kind; {room} is a folder of nobody's. Whether it works is beside the point here: it is answered.
NET_OPTIONS = {
    "user": "user,id={id},vlan=7,ipv4=on,ipv6=on,tftp={room},dnssearch=lab.example",
    "tap": "tap,id={id},vlan=7,br=br0",
    "bridge": "bridge,id={id},vlan=7,br=br0",
    "socket": "socket,id={id},vlan=7,connect=localhost:4",
    "stream": "stream,id={id},vlan=7,addr.type=inet,addr.host=xn--bcher-kva.invalid,addr.port=4,reconnect-ms=100",
    "dgram": "dgram,id={id},vlan=7,local.type=inet,local.host=localhost,local.port=46001,"
    "remote.type=inet,remote.host=xn--bcher-kva.invalid,remote.port=5",
    "vde": "vde,id={id},vlan=7,sock={room}/vde",
    "ws": "ws,id={id},vlan=7,listen=127.0.0.1:8081",
    "vxlan": "vxlan,name={id},vlan=7,id=7,remote=192.168.77.9,br=br0",
    "hubport": "hubport,id={id},hubid=7",
    "dump": "dump,id={id},vlan=7,file={room}/dump.pcap",
}


def test_every_command_and_every_kind(place: Place, lan: str) -> None:
    """Of both monitors; with the register bus, so that cards have a guest."""
    room = place.room
    nets = ("-net", "user,id=u,name=u", "-net", "tap,ifname=tap0,br=br0")
    assert set(NET_OPTIONS) == set(NETS), "a kind of net has no line here"
    with Dropped(place, *options(place, "--mode", "user", *nets)) as running:
        hmp, qmp = Hmp(room / "m"), Qmp(room / "q")
        for _ in range(2):
            assert hmp.well("mode tap") == "VLAN 0: tap: ifname=tap0 setup_script=\n"
            assert links(lan)["tap0"]["master"] == "br0"
            hmp.well("mode user")
            assert "tap0" not in links(lan)
        items = [item for item in LOG_ITEMS if item not in LOG_LATER]
        hmp.well(f"logfile {room}/trace")
        hmp.well(f"log {','.join(items)}")
        hmp.ask("log slirq")  # a word that is nearly one
        works = {}
        for kind, option in NET_OPTIONS.items():
            a, b, c, d = (option.format(room=room, id=f"{letter}-{kind}") for letter in "abcd")
            works[kind] = hmp.ask(f"host_net_add {a}")
            hmp.ask(f"netdev_add {b.replace('vlan=7,', '')}")
            for name, words in (("x-tapnet-net-add", c), ("netdev_add", d.replace("vlan=7,", ""))):
                qmp.ask(name, {"type": kind, **dict(word.split("=", 1) for word in words.split(",")[1:])})
        for kind in ("user", "tap", "socket", "stream", "dgram", "ws", "vxlan", "dump"):
            assert works[kind] == "", f"{kind}: {works[kind]}"
        for model in MODELS:
            added = [hmp.ask(f"device_add {model},id=e-{model},vlan=7")]
            qmp.ask("device_add", {"driver": model, "id": f"f-{model}", "vlan": 7})
            hmp.ask(f"device_add {model},id=g-{model},vlan=7,netns=/run/netns/{lan}")
            added.append(hmp.ask(f"device_add {model},id=h-{model},vlan=7,vfio-user={room}/v-{model}"))
            assert model == "direct" or added == ["", ""], added
            for label in (f"{letter}-{model}" for letter in "efgh"):
                hmp.ask(f"device_del {label}")
                qmp.ask("device_del", {"id": label})
        lines = [
            "help", "help info", "info", "bogus", "info instance", "info name", "info status", "info version",
            "info network", "info network -v", "info addresses", "info cards", "info leases", "info ports",
            "info vlans", "info usernet", "info usernets", "info hostfwd", "info guestfwd", "info impair",
            "info captures", "info log", "set_link u off", "set_link u on",
            "hostfwd_add tcp:127.0.0.1:7001-:1", "hostfwd_add udp:localhost:7001-:1",
            f"hostfwd_add unix:{room}/hf-:1", "hostfwd_remove tcp:127.0.0.1:7001", "hostfwd_remove 2",
            "guestfwd_add tcp::7-cmd:cat", "guestfwd_add udp::8-udp:127.0.0.1:9",
            "guestfwd_add tcp::9-tcp:localhost:9", "guestfwd_remove tcp::7", "guestfwd_remove 2",
            "impair u delay=1ms loss=1% rate=1m", "info impair", "impair u off",
            f"capture start 0 {room}/c.pcapng", f"capture start u {room}/u.pcapng", "info captures",
            "capture stop 0", "capture stop u", "capture start 0 /root/no/such",
            "host_net_add usr", "host_net_add hub,vlan=0,switch=on", "host_net_add nic,model=rtl9139",
            "host_net_remove 7 a-user", "netdev_del b-user", "device_del nope", "log none", "logfile -",
        ]  # fmt: skip
        for line in lines:
            hmp.ask(line)
        for kind in NETS:
            hmp.ask(f"host_net_remove 7 a-{kind}")
            hmp.ask(f"netdev_del b-{kind}")
            qmp.ask("x-tapnet-net-del", {"vlan": 7, "name": f"c-{kind}"})
            qmp.ask("netdev_del", {"id": f"d-{kind}"})
        words = {line.split()[0] for line in hmp.seen} | {" ".join(line.split()[:2]) for line in hmp.seen}
        for command in COMMANDS:
            prefix = "info " if command.info else ""
            if command.names and not command.ends:
                assert any(prefix + name in words for name in command.names), f"no line with {command.hmp}"
        said = {
            "x-tapnet-mode": {"mode": "tap"}, "set_link": {"name": "u", "up": True},
            "x-tapnet-hostfwd-add": {"rule": "tcp::7002-:1"}, "x-tapnet-hostfwd-remove": {"rule": "tcp::7002"},
            "x-tapnet-guestfwd-add": {"rule": "tcp::7-cmd:cat"}, "x-tapnet-guestfwd-remove": {"rule": "tcp::7"},
            "x-tapnet-impair": {"name": "u", "effects": ["off"]}, "x-tapnet-log": {"items": "hub"},
            "x-tapnet-logfile": {"file": "-"},
            "x-tapnet-capture": {"action": "start", "target": "0", "file": f"{room}/q.pcapng"},
        }  # fmt: skip
        for name in ("query-version", "query-commands", *BY_QMP):
            if name != "quit" and name not in qmp.names:
                qmp.ask(name, said.get(name))
        qmp.ask("human-monitor-command", {"command-line": "mode user"})
        qmp.ask_raw('{"execute": "query-status", "id": "raw"}'.encode("utf-16-le"))
        time.sleep(1.5)  # links come up again, names are looked up, peers tried again
        missed = {name for name in BY_QMP if name not in qmp.names} - {"quit"}
        assert not missed
        hmp.ask("info network -v")
        qmp.ask("quit")
        assert running.process.wait(SECONDS) == 0, running.said()
        clean(place, running)


def test_what_a_guest_a_scraper_and_a_manager_set_off(place: Place, lan: str, guest: str) -> None:
    """Traffic of every service, a reload good and bad, a restart with what is handed over."""
    room = place.room
    (room / "boot").mkdir()
    (room / "boot" / "kernel").write_bytes(bytes(3000))
    os.chown(room / "boot", 65534, 65534)
    file = room / "lab.toml"
    wanted = f"""
    mode = "user"
    metrics = "127.0.0.1:9100"
    [[net]]
    type = "nic"
    model = "ne2k_pci"
    netns = "/run/netns/{guest}"
    dhcp = true
    [[net]]
    type = "user"
    hostname = "lab"
    ipv4 = true
    ipv6 = true
    ftp = true
    tftp = "{room}/boot"
    record = "web.lab=10.0.2.77"
    hostfwd = "tcp:127.0.0.1:7001-:7001"
    guestfwd = "tcp::7-tcp:localhost:7002"
    [[net]]
    type = "tap"
    ifname = "tap0"
    br = "br0"
    [[net]]
    type = "ws"
    listen = "127.0.0.1:8080"
    """
    file.write_text(wanted)
    told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    told.bind(str(room / "notify"))
    (room / "notify").chmod(0o666)
    told.settimeout(SECONDS)

    def until_ready() -> None:
        while b"READY=1" not in told.recv(4096):
            pass

    with told, Dropped(place, *options(place, "--config", str(file))) as running:
        until_ready()
        hmp = Hmp(room / "m")
        hmp.well(f"logfile {room}/trace")
        hmp.well(f"log {','.join(item for item in LOG_ITEMS if item not in LOG_LATER)}")
        until_sync(
            lambda: "10.0.2.15" in sh(f"ip -n {guest} addr show eth0", check=False), "a lease", SECONDS
        )
        served = within(lan, lambda: socket.create_server(("127.0.0.1", 7002)))
        with served:
            for where in (("10.0.2.2", 7002), ("10.0.2.4", 7)):
                with within(guest, lambda where=where: socket.create_connection(where, SECONDS)) as one:
                    one.sendall(b"x")
                    served.settimeout(SECONDS)
                    taken, _ = served.accept()
                    with taken:
                        assert taken.recv(1) == b"x"
        with pytest.raises(OSError):
            within(guest, lambda: socket.create_connection(("10.0.2.2", 7003), SECONDS))
        inner = f"ip netns exec {guest}"
        sh(f"{inner} ping -c 1 -W 5 10.0.2.2", check=False)
        sh(f"{inner} ping -c 1 -W 1 192.0.2.1", check=False)
        for name in ("web.lab", "bücher.invalid", "2.2.0.10.in-addr.arpa"):
            sh(f"{inner} dig +time=2 +tries=1 @10.0.2.3 {name}", check=False)
            sh(f"{inner} dig +tcp +time=2 +tries=1 @10.0.2.3 {name}", check=False)
        sh(f"{inner} atftp --get -r kernel -l /dev/null 10.0.2.2", check=False)
        sh(f"{inner} atftp --get -r nope -l /dev/null 10.0.2.2", check=False)
        forwarded = within(lan, lambda: socket.create_connection(("127.0.0.1", 7001), SECONDS))
        with forwarded, contextlib.suppress(OSError):
            forwarded.settimeout(5)
            forwarded.recv(1)
        text = within(
            lan, lambda: urllib.request.urlopen("http://127.0.0.1:9100/metrics", timeout=SECONDS).read()
        )
        assert b"tapnet" in text
        with within(lan, lambda: socket.create_connection(("127.0.0.1", 8080), SECONDS)) as browser:
            browser.sendall(
                b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            browser.settimeout(SECONDS)
            assert browser.recv(4096).startswith(b"HTTP/1.1 101 ")
            browser.sendall(b"\x82\x85abcd" + bytes(5))  # a frame too short, masked
            browser.sendall(b"\x88\x80abcd")
            while browser.recv(4096):
                pass
        for content in (
            wanted.replace("hostname", "hostnam"),  # a word that is nearly one
            "[[net]\n",
            wanted.replace("10.0.2.77", "10.0.2.78").replace("7001-", "7004-"),
            'mode = "tap"\n' + wanted.replace('mode = "user"', ""),
            wanted + '[[net]]\ntype = "user"\nvlan = 1\n',
        ):
            file.write_text(content)
            running.process.send_signal(signal.SIGHUP)
            until_ready()
        file.chmod(0o600)  # and root's: nobody may not read it any more
        running.process.send_signal(signal.SIGHUP)
        until_ready()
        assert f"reload: -config {file}: Permission denied; the configuration before stays" in running.said()
        assert hmp.ask("info status") == "VM status: running\n"
        assert running.stop() == 0, running.said()
        clean(place, running)


def test_programs(place: Place, lan: str, guest: str) -> None:
    """A TAP's scripts, smbd and a service by a program: where they are wanted there is no fence, and they run as nobody."""
    room = place.room
    script = room / "up"
    script.write_text(f"#!/bin/sh\necho $0 $1 $(id -u) >>{room}/ran\n")
    script.chmod(0o755)
    tap = f"tap,ifname=tap0,br=br0,script={script},downscript={script}"
    (room / "share").mkdir()
    nic = f"nic,model=direct,netns=/run/netns/{guest},dhcp=on"
    nets = ("-net", nic, "-net", f"user,guestfwd=tcp::7-cmd:cat,smb={room}/share", "-net", tap)
    with Dropped(place, *options(place, "--mode", "user", *nets)) as running:
        hmp = Hmp(room / "m")
        until_sync(
            lambda: "10.0.2.15" in sh(f"ip -n {guest} addr show eth0", check=False), "a lease", SECONDS
        )
        shares = sh(
            f"ip netns exec {guest} timeout -k 5 60 smbclient -N -L //10.0.2.4", check=False, timeout=90
        )
        assert "qemu" in shares, running.said()
        with within(guest, lambda: socket.create_connection(("10.0.2.4", 7), SECONDS)) as cat:
            cat.settimeout(SECONDS)
            cat.sendall(b"meow")
            assert cat.recv(4) == b"meow"
        for mode in ("tap", "user", "tap", "user"):
            hmp.well(f"mode {mode}")
        assert (room / "ran").read_text() == f"{script} tap0 65534\n" * 4
        hmp.ask("host_net_add tap,ifname=tap1,br=br0,script=/no/such")
        hmp.ask(f"host_net_add tap,ifname=tap1,helper={script}")
        hmp.ask("host_net_add tap,ifname=tap1,br=br7")
        hmp.ask("mode")
        assert running.stop() == 0, running.said()
        clean(place, running)
