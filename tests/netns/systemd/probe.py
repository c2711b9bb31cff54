"""Runs inside the container, as the only service of a real systemd: plays scenes and writes what it sees to /out/facts.json.

Standard library only: the container's own Python runs it. A scene that fails leaves its traceback in the facts.
"""

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import threading
import time
import traceback
from pathlib import Path

SECONDS = 60.0
BOOT_SECONDS = 240.0
OUT = Path("/out")
facts = {}


def sh(command, timeout=SECONDS):
    """(status, output, errors) of a shell command."""
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
    )
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def out(command):
    return sh(command)[1]


def state(name, what):
    return out(f"systemctl show -P {what} tapnet@{name}")


def until(condition, what, seconds=SECONDS):
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"timed out: {what}")
        time.sleep(0.05)
    return value


def links():
    return sorted(row["ifname"] for row in json.loads(out("ip -j link")))


def index(name):
    return json.loads(out(f"ip -j link show {name}"))[0]["ifindex"]


def monitor(name, words):
    return out(f"tapnet monitor -i {name} {words}")


def files(*folders):
    return sorted(str(path) for folder in folders for path in Path(folder).rglob("*") if path.name != ".lock")


def drop_in(name, text, kind="service"):
    folder = Path(f"/etc/systemd/system/tapnet@{name}.{kind}.d")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{len(list(folder.iterdir()))}.conf").write_text(text)
    sh("systemctl daemon-reload")


def config(name, text, environment=""):
    Path(f"/etc/tapnet/{name}.toml").write_text(text)
    if environment:
        Path(f"/etc/tapnet/{name}.env").write_text(environment)


def journal(words):
    return [json.loads(line) for line in out(f"journalctl -q --no-pager -o json {words}").splitlines()]


def exposure(text):
    return float(re.search(r"Overall exposure level for \S+: ([\d.]+)", text)[1])


# ---- scenes ----------------------------------------------------------------------------------------------------


def host():
    facts["before"] = (links(), files("/run/tapnet"))
    facts["systemd"] = out("systemctl --version").splitlines()[0]
    facts["sysusers"] = sh("systemd-sysusers")[::2]
    facts["tmpfiles"] = sh("systemd-tmpfiles --create /usr/local/lib/tmpfiles.d/tapnet.conf")[::2]
    facts["tun"] = out("stat -c '%a %U %G' /dev/net/tun")
    facts["verify"] = sh("systemd-analyze verify --man=no tapnet@lab.service tapnet@lab.socket tapnet.target")
    facts["loaded"] = out(
        "journalctl -q --no-pager -o cat _PID=1 | grep -i tapnet | grep -iE 'unknown|ignor|invalid|fail'"
    )


class Vm:
    """A real VM with two cards: tapnet's by vfio-user, and QEMU's own on a socket wire of tapnet's."""

    def __init__(self):
        self.text, self.count = "", 0
        words = json.loads((OUT / "vm.json").read_text())
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        while data := os.read(self.process.stdout.fileno(), 4096):
            self.text += data.decode(errors="replace").replace("\r", "")

    def run(self, command, seconds=BOOT_SECONDS):
        """Output of a shell command in the guest."""
        self.count += 1
        before = len(self.text)
        self.process.stdin.write(f"{command}; echo :done-{self.count}:\n".encode())
        self.process.stdin.flush()
        until(
            lambda: f":done-{self.count}:" in self.text[before:] or self.process.poll() is not None,
            command,
            seconds,
        )
        return self.text[before:].split(f":done-{self.count}:")[0].strip()


VM_CARD = """\
[[net]]
type = "nic"
model = "rtl8139"
macaddr = "52:54:00:aa:00:01"
vfio-user = "/run/tapnet/card/nic.sock"
[[net]]
type = "tap"
br = "br-card"
"""
VM_WIRE = """\
[[net]]
type = "socket"
listen = "127.0.0.1:7400"
[[net]]
type = "tap"
br = "br-wire"
"""
machine = None


def vm_start():
    """It boots while other scenes are played. Each card's TAP is in a bridge of its own, with a DHCP server."""
    global machine
    for number, name in enumerate(("card", "wire"), 1):
        sh(
            f"ip link add br-{name} type bridge; ip addr add 10.77.{number}.1/24 dev br-{name}; ip link set br-{name} up"
        )
        sh(
            f"dnsmasq --user=root --port=0 --no-ping --dhcp-range=10.77.{number}.50,10.77.{number}.60 --leasefile-ro "
            f"--dhcp-authoritative --interface=br-{name} --bind-interfaces --conf-file=/dev/null "
            f"--pid-file=/run/dnsmasq-{name}.pid >/dev/null 2>&1"
        )
        config(name, {"card": VM_CARD, "wire": VM_WIRE}[name], "TAPNET_MODE=tap")
    facts["vm.start"] = sh("systemctl start tapnet@card tapnet@wire")
    machine = Vm()


class Half(threading.Thread):
    """Sends whoever connects half of a file, and the rest when it is told to."""

    blob = bytes(range(256)) * 4096

    def __init__(self, address):
        super().__init__(daemon=True)
        self.first, self.go_on = threading.Event(), threading.Event()
        self.server = socket.create_server(address)
        self.start()

    def run(self):
        with self.server, self.server.accept()[0] as client:
            client.sendall(self.blob[: len(self.blob) // 2])
            self.first.set()
            self.go_on.wait(BOOT_SECONDS)
            client.sendall(self.blob[len(self.blob) // 2 :])


def vm():
    until(lambda: "GUEST-READY" in machine.text or machine.process.poll() is not None, "the VM", BOOT_SECONDS)
    machine.run("insmod /lib/m/mii.ko; insmod /lib/m/8139cp.ko")
    find = 'for d in /sys/class/net/*; do grep -q "$M" $d/address && I=${d##*/}; done; ip link set $I up; '
    for number, name in enumerate(("card", "wire"), 1):
        lease = machine.run(f"M=aa:00:0{number}; {find} udhcpc -q -n -t 8 -T 3 -i $I")
        ping = machine.run(f"ping -c 3 -W 5 10.77.{number}.1")
        facts[f"vm.{name}"] = f"lease 10.77.{number}." in lease, "ttl=64" in ping, lease + ping
    facts["vm.cards"] = machine.run("dmesg | grep RTL-8139C+ | grep -c 52:54:00:aa:00:0")
    half = Half(("10.77.2.1", 8000))
    machine.run("(nc 10.77.2.1 8000 </dev/null | md5sum >/tmp/sum) & true")
    assert half.first.wait(BOOT_SECONDS)
    facts["vm.restart"] = sh("systemctl restart tapnet@wire")
    half.go_on.set()
    facts["vm.sum"] = machine.run(
        "n=0; until [ -s /tmp/sum ] || [ $n -gt 90 ]; do sleep 1; n=$((n+1)); done; cat /tmp/sum"
    )
    facts["vm.right"] = hashlib.md5(Half.blob).hexdigest()
    facts["vm.network"] = monitor("wire", "info network")
    machine.process.kill()
    machine.process.wait()
    facts["vm.stop"] = sh("systemctl stop tapnet@card tapnet@wire")
    facts["vm.left"] = [name for name in links() if name in ("tap0", "tap1")]
    sh("kill $(cat /run/dnsmasq-*.pid); ip link del br-card; ip link del br-wire")


def life():
    """Start, status, reload, stop."""
    facts["start"] = sh("systemctl start tapnet@lab")
    facts["network"] = monitor("lab", "info network")
    facts["active"], facts["text"] = state("lab", "ActiveState"), state("lab", "StatusText")
    facts["links"], facts["files"] = links(), files("/run/tapnet/lab")
    facts["exposure"] = exposure(sh("systemd-analyze security --no-pager tapnet@lab.service")[1])
    tap = index("tap-lab")
    before = Path("/etc/tapnet/lab.toml").read_text()
    more = '[[net]]\ntype = "socket"\nlisten = "127.0.0.1:7100"\n'
    config(
        "lab", more + before.replace('type = "user"', 'type = "user"\nhostfwd = ["tcp:127.0.0.1:7101-:80"]')
    )
    facts["reload"] = sh("systemctl reload tapnet@lab")
    until(lambda: ":7100 " in out("ss -ltn"), "the new wire")
    facts["reload.listens"] = ":7101 " in out("ss -ltn")
    facts["reload.tap"] = index("tap-lab") == tap
    config("lab", before.replace('type = "user"', 'type = "usr"'))
    sh("systemctl reload tapnet@lab")
    until(lambda: "usr" in out("journalctl -q --no-pager -o cat -u tapnet@lab"), "a word about the mistake")
    facts["bad.active"] = until(lambda: state("lab", "ActiveState") == "active", "active after a mistake")
    facts["bad.listens"] = ":7100 " in out("ss -ltn")
    config("lab", before)
    sh("systemctl reload tapnet@lab")
    until(lambda: ":7100 " not in out("ss -ltn"), "the wire to go")
    facts["reload.lines"] = [
        line for line in out("journalctl -q --no-pager -o cat -u tapnet@lab").splitlines() if "reload" in line
    ]
    facts["reload.same"] = index("tap-lab") == tap
    facts["fields"] = [
        (row["PRIORITY"], row["MESSAGE"])
        for row in journal("TAPNET_INSTANCE=lab TAPNET_LOGGER=tapnet.service")
    ]
    facts["restarts"] = state("lab", "NRestarts")


def killed():
    """SIGKILL, and the watchdog."""
    sh("systemctl kill -s KILL tapnet@lab")
    until(lambda: state("lab", "NRestarts") == "1" and state("lab", "ActiveState") == "active", "a new start")
    facts["killed.files"] = files("/run/tapnet/lab")
    facts["killed.network"] = monitor("lab", "info network")
    facts["killed.links"] = links()
    config("dog", '[[net]]\ntype = "tap"\nifname = "tap-dog"\n[[net]]\ntype = "nic"\n')
    drop_in("dog", "[Service]\nWatchdogSec=4\nTimeoutAbortSec=1\n")
    facts["dog.start"] = sh("systemctl start tapnet@dog")
    for _ in range(2):
        seen = state("dog", "WatchdogTimestampMonotonic")
        until(lambda last=seen: state("dog", "WatchdogTimestampMonotonic") != last, "a sign of life")
    pid = state("dog", "MainPID")
    os.kill(int(pid), 19)
    until(
        lambda: state("dog", "MainPID") not in (pid, "0") and state("dog", "ActiveState") == "active",
        "the watchdog",
    )
    facts["dog.network"] = monitor("dog", "info network")
    facts["dog.log"] = out("journalctl -q --no-pager -o cat -u tapnet@dog")
    facts["dog.stop"] = sh("systemctl stop tapnet@dog")


def mistakes():
    facts["bad.start"] = sh("systemctl start tapnet@bad")[0]
    facts["bad"] = [state("bad", what) for what in ("ExecMainStatus", "NRestarts")]
    facts["bad.journal"] = out("journalctl -q --no-pager -o cat -u tapnet@bad")
    facts["bad.priority"] = [row["PRIORITY"] for row in journal("-u tapnet@bad") if "usr" in row["MESSAGE"]]
    sh("systemctl reset-failed tapnet@bad")


def slow():
    """A monitor with wait=on holds the start: not ready before its client has come."""
    sh("systemctl start --no-block tapnet@slow")
    path = "/run/tapnet/slow/mon"
    until(lambda: os.path.exists(path), path)
    facts["slow.before"] = state("slow", "ActiveState")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(SECONDS)
        client.connect(path)
        until(lambda: state("slow", "ActiveState") == "active", "slow to be active")
        facts["slow.greeting"] = client.recv(100).decode()
    facts["ps"] = out("tapnet ps")
    facts["slow.stop"] = sh("systemctl stop tapnet@slow")


def activation():
    config("act", '[[net]]\ntype = "socket"\nlisten = "127.0.0.1:7300"\n[[net]]\ntype = "user"\n')
    drop_in("act", "[Socket]\nListenStream=127.0.0.1:7300\n", "socket")
    facts["act.start"] = sh("systemctl start tapnet@act.socket")
    facts["act.before"] = state("act", "ActiveState"), out("tapnet ps").count("act ")
    facts["act.answer"] = monitor("act", "info network")
    facts["act.after"] = until(lambda: state("act", "ActiveState") == "active", "act to be active")
    sh("systemctl stop tapnet@act")
    with socket.create_connection(("127.0.0.1", 7300), SECONDS) as peer:  # a wire's peer starts it too
        until(lambda: "connection from 127.0.0.1" in monitor("act", "info network"), "the connection")
        peer.sendall(b"GET / HTTP/1.0\r\n")  # no frames: the end of that connection, with a line
        until(lambda: journal("TAPNET_INSTANCE=act TAPNET_VLAN=0 TAPNET_PORT=socket.0"), "the line")
    facts["act.mode"] = out("stat -c %a /run/tapnet/act.sock")
    facts["act.stop"] = sh("systemctl stop tapnet@act.socket tapnet@act")
    facts["act.gone"] = not os.path.exists("/run/tapnet/act.sock"), ":7300 " in out("ss -ltn")


class Peer:
    """A machine on a stream wire."""

    def __init__(self, where):
        self.sock = socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET)
        self.sock.settimeout(SECONDS)
        self.sock.connect(where)
        self.read = b""

    @staticmethod
    def frame(number):
        data = b"\xff" * 6 + b"\x02\0\0\0\0\x01\x88\xb5" + struct.pack("!I", number) + bytes(1000)
        return struct.pack("!I", len(data)) + data

    def numbers(self, count):
        """Numbers of the next ``count`` frames."""
        found = []
        while len(found) < count:
            data = self.sock.recv(65536)
            if not data:
                raise AssertionError(f"closed after {found[-3:]}")
            self.read += data
            while len(self.read) >= 4 and len(self.read) >= 4 + (
                size := struct.unpack("!I", self.read[:4])[0]
            ):
                if self.read[16:18] == b"\x88\xb5":  # the bridge's own multicast is none of ours
                    found.append(struct.unpack("!I", self.read[18:22])[0])
                self.read = self.read[4 + size :]
        return found

    def closed(self):
        """Read to the end."""
        with contextlib.suppress(ConnectionResetError):
            while self.sock.recv(65536):
                pass
        return True


WIRES = """\
[[net]]
type = "socket"
listen = "127.0.0.1:7000"
[[netdev]]
type = "stream"
id = "s"
server = true
addr = {type = "unix", path = "/run/tapnet/wires/s.sock"}
[[netdev]]
type = "hubport"
id = "h"
hubid = 0
netdev = "s"
[[net]]
type = "vde"
sock = "/run/switch"
[[net]]
type = "tap"
ifname = "tap-wires"
br = "br-wires"
[[net]]
type = "user"
vlan = 1
hostfwd = ["tcp:127.0.0.1:7001-:80"]
"""


def restart():
    """Connections of a service with User=tapnet live over a restart, in the middle of a frame."""
    sh("ip link add br-wires type bridge; ip link set br-wires up")
    sh("vde_switch -s /run/switch -m 666 -d -p /run/switch.pid >/dev/null 2>&1")
    sh("chmod 777 /run/switch")
    config("wires", WIRES)
    user = Path("/usr/local/share/tapnet/drop-ins/user.conf").read_text()
    drop_in("wires", user)
    facts["wires.start"] = sh("systemctl start tapnet@wires")
    facts["wires.user"] = out(f"stat -c %U /proc/{state('wires', 'MainPID')}")
    facts["wires.caps"] = out(f"grep -E 'Cap(Eff|Bnd)' /proc/{state('wires', 'MainPID')}/status").split()[
        1::2
    ]
    facts["wires.exposure"] = exposure(sh("systemd-analyze security --no-pager tapnet@wires.service")[1])
    a, b, c = Peer(("127.0.0.1", 7000)), Peer(("127.0.0.1", 7000)), Peer("/run/tapnet/wires/s.sock")
    until(lambda: monitor("wires", "info network").count("connection from") == 2, "two peers")
    until(lambda: "(" not in monitor("wires", "info network").split("vde")[1].splitlines()[0], "the switch")
    tap, plug = index("tap-wires"), out("ss -xp | grep -c vde_switch")
    a.sock.sendall(Peer.frame(1))
    first = b.numbers(1), c.numbers(1)
    cut = Peer.frame(2)
    a.sock.sendall(cut[:500])
    pid = state("wires", "MainPID")
    restarting = subprocess.Popen(["systemctl", "restart", "tapnet@wires"])
    sent = 2
    rest = cut[500:]
    while restarting.poll() is None:  # a peer that does not know
        a.sock.sendall(rest)
        sent += 1
        rest = Peer.frame(sent)
        time.sleep(0.005)
    a.sock.sendall(rest)
    facts["wires.restart"] = restarting.returncode
    facts["wires.new"] = state("wires", "MainPID") != pid
    facts["wires.sent"] = sent > 3
    facts["wires.b"] = first[0] + b.numbers(sent - 1) == list(range(1, sent + 1))
    facts["wires.c"] = first[1] + c.numbers(sent - 1) == list(range(1, sent + 1))
    b.sock.sendall(Peer.frame(7))
    facts["wires.back"] = a.numbers(1), c.numbers(1)
    facts["wires.tap"] = index("tap-wires") == tap, "tap-wires" in out("ip link show master br-wires")
    facts["wires.network"] = monitor("wires", "info network")
    facts["wires.verbose"] = monitor("wires", "info network -v")
    facts["wires.plug"] = plug == out("ss -xp | grep -c vde_switch")
    facts["wires.again"] = Peer(("127.0.0.1", 7000)).sock.fileno() > 0
    facts["wires.restarts"] = state("wires", "NRestarts")
    config("wires", "")
    config("wires", WIRES.replace("7000", "7002"))  # a changed net is not handed over
    facts["wires.changed"] = sh("systemctl restart tapnet@wires")
    facts["wires.closed"] = b.closed()
    facts["wires.stop"] = sh("systemctl stop tapnet@wires")
    facts["wires.ended"] = c.closed()
    facts["wires.gone"] = (
        [name for name in links() if "wires" in name],
        files("/run/tapnet/wires", "/run/switch"),
    )
    facts["wires.journal"] = out("journalctl -q --no-pager -o cat -u tapnet@wires")
    sh("kill $(cat /run/switch.pid); ip link del br-wires")


class ByHand:
    """``tapnet run --runas tapnet`` that root started."""

    def __init__(self, *words):
        config("hand", "")
        self.process = subprocess.Popen(
            [
                "tapnet",
                "run",
                "--name",
                "hand",
                "--config",
                "/etc/tapnet/hand.toml",
                "--runas",
                "tapnet",
                *words,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        until(
            lambda: self.status().get("Uid", "").startswith(facts["uid"]) or self.process.poll() is not None,
            "the user",
        )
        until(lambda: monitor("hand", "info network"), "an answer")

    def status(self):
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def facts(self):
        seen = self.status()
        return [seen[word] for word in ("CapEff", "CapPrm", "CapBnd", "NoNewPrivs")]

    def line(self, word):
        return next((line for line in iter(self.process.stdout.readline, "") if word in line), None)

    def stop(self):
        self.process.terminate()
        said = self.process.communicate(timeout=SECONDS)[0]
        return self.process.returncode, said


def by_hand():
    facts["uid"] = out("id -u tapnet")
    sh("chmod 600 /dev/net/tun")
    one = ByHand("-net", "nic", "-net", "user", "-net", "tap,ifname=tap-one")
    facts["hand"] = one.facts()
    facts["hand.network"], facts["hand.ps"] = monitor("hand", "info network"), out("tapnet ps")
    config("hand", '[[net]]\ntype = "tap"\nvlan = 3\nifname = "tap-two"\n')
    one.process.send_signal(signal.SIGHUP)
    until(lambda: "tap-two" in links(), "tap-two, by a descriptor in reserve")
    facts["hand.files"] = files("/run/tapnet/hand")
    facts["hand.stop"] = one.stop()
    facts["hand.left"] = (
        files("/run/tapnet/hand"),
        [name for name in links() if name in ("tap-one", "tap-two")],
    )
    two = ByHand("-net", "nic", "-net", "user")
    facts["hand.none"] = two.facts()
    config("hand", '[[net]]\ntype = "tap"\nvlan = 3\nifname = "tap-two"\n')
    two.process.send_signal(signal.SIGHUP)
    facts["hand.refused"] = until(lambda: two.line("reload: "), "a word")
    facts["hand.stop2"] = two.stop()
    facts["hand.nobody"] = sh("tapnet run --runas no-such-user -net user")
    sh("rm -r /run/tapnet/hand; chmod 660 /dev/net/tun")


BOX = """\
[[net]]
type = "nic"
netns = "/run/netns/share"
dhcp = true
[[net]]
type = "user"
smb = "/srv/share"
smb-user = "tapnet"
hostfwd = ["tcp:127.0.0.1:81-:80"]
"""


def drop_ins():
    """A guest in a namespace, a low port, and smbd as another user, by the drop-ins."""
    os.makedirs("/srv/share")
    Path("/srv/share/hello").write_text("hello\n")
    sh("chown -R tapnet /srv/share; ip netns add share")
    for name in ("netns", "low-ports", "smb", "ping"):
        drop_in("share", Path(f"/usr/local/share/tapnet/drop-ins/{name}.conf").read_text())
    config("share", BOX)
    facts["share.start"] = sh("systemctl start tapnet@share")
    facts["share.port"] = "127.0.0.1:81 " in out("ss -ltn")
    until(lambda: facts["share.start"][0] or "10.0.2.15" in out("ip -n share -4 addr"), "a lease")
    commands = "get hello /tmp/got; put /etc/hostname new"
    facts["share.smb"] = sh(f"ip netns exec share timeout 60 smbclient -N //10.0.2.4/qemu -c '{commands}'")
    facts["share.got"], facts["share.owner"] = out("cat /tmp/got"), out("stat -c %U /srv/share/new")
    sh("ip addr add 192.0.2.1/32 dev lo")
    facts["share.range"] = out("cat /proc/sys/net/ipv4/ping_group_range").split()
    facts["share.ping"] = sh(
        "ip netns exec share timeout 60 sh -c 'until ping -c 1 -W 5 192.0.2.1; do sleep 1; done'"
    )
    facts["share.stop"] = sh("systemctl stop tapnet@share")
    facts["share.log"] = out("journalctl -q --no-pager -o cat -u tapnet@share")
    sh("ip netns del share")


def documented():
    """Every block of docs/service.md that is marked so, in order, each as one script."""
    facts["docs"] = []
    for block in re.findall(
        r"^```bash\n(.*?)^```", (OUT / "service.md").read_text(), re.DOTALL | re.MULTILINE
    ):
        done = subprocess.run(
            ["bash", "-e", "-c", block],
            capture_output=True,
            text=True,
            timeout=BOOT_SECONDS,
            stdin=subprocess.DEVNULL,
        )
        facts["docs"].append([block, done.returncode, done.stdout + done.stderr])
    facts["docs.ports"] = journal("-u tapnet@box -p err") + journal("-u tapnet@lan -p err")
    sh(
        "systemctl disable tapnet@lan; systemctl stop 'tapnet@*'; ip netns del box; ip link del br0; rm -r /run/tapnet/hand"
    )


def end():
    facts["stop"] = sh("systemctl stop tapnet@lab")
    facts["stopped"] = {
        name: [state(name, what) for what in ("ActiveState", "Result", "ExecMainStatus")]
        for name in ("lab", "slow", "dog", "act", "wires", "card", "wire", "lan", "box", "share")
    }
    facts["after"] = links(), files("/run/tapnet")
    facts["processes"] = out("pgrep -af tapnet | grep -v probe")
    facts["journal"] = out("journalctl -q --no-pager -o cat -u 'tapnet@*'")
    facts["failed"] = out("systemctl --failed --no-legend --plain list-units")


for scene in (
    host,
    vm_start,
    life,
    killed,
    mistakes,
    slow,
    activation,
    restart,
    by_hand,
    vm,
    drop_ins,
    documented,
    end,
):
    began = time.monotonic()
    try:
        scene()
    except Exception:
        facts.setdefault("errors", []).append(f"{scene.__name__}: {traceback.format_exc()}")
        facts["console"] = machine.text if machine is not None else ""
    facts.setdefault("seconds", {})[scene.__name__] = round(time.monotonic() - began, 1)
(OUT / "facts.json").write_text(json.dumps(facts))
