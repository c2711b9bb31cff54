"""docs/user-network.md: its table has every key, and every example in it does what the last column says.

On a host of the test's own: a loopback with a web server and a name server, and directories in /srv.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tapnet.options import tables as keys
from tests import needs
from tests.netns.exec_kit import ROOT, root_runner
from tests.waiting import BOUND_S

PAGE = (ROOT / "docs" / "user-network.md").read_text()
CARD = "-net nic,model=direct -net user"
CELL = re.compile(r"(?<!\\)\|")
HOST = """
import functools, http.server, json, socket, subprocess, sys, threading
from concurrent.futures import ThreadPoolExecutor

class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass

def names():
    while True:
        query, peer = dns.recvfrom(512)
        end = query.index(0, 12) + 5
        answer = bytes((0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 7))
        dns.sendto(query[:2] + bytes((0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0)) + query[12:end] + answer, peer)

def run(words):
    command = [sys.executable, "-m", "tapnet", "exec", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        return str(error)
    return done.stdout + done.stderr

web = http.server.ThreadingHTTPServer(("127.0.0.1", 8000), functools.partial(Quiet, directory="/srv/share"))
threading.Thread(target=web.serve_forever, daemon=True).start()
dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
dns.bind(("127.0.0.1", 5353))
threading.Thread(target=names, daemon=True).start()
with ThreadPoolExecutor(2) as pool:
    print(json.dumps(list(pool.map(run, json.load(open(sys.argv[1]))))))
"""
# What is in /srv stays there, beside the examples' own: this checkout may be among it.
SETUP = """
ip link set lo up && mkdir srv && mount --rbind /srv srv && mount -t tmpfs tmpfs /srv && chmod 755 /srv &&
for folder in srv/*/; do
  name=$(basename "$folder")
  case $name in tftp|share|'*') ;; *) mkdir "/srv/$name" && mount --rbind "$folder" "/srv/$name";; esac
done && mkdir -p /srv/tftp /srv/share &&
chmod 777 /srv/share /srv/tftp && echo 'not really a loader' > /srv/tftp/pxelinux.0 &&
echo 'hello, guest' > /srv/share/hello && exec "$0" "$@"
"""
ELSEWHERE = "ftp="  # its example wants an FTP server: tests/netns/test_ftp.py


def rows() -> list[list[str]]:
    """The table's cells, without their back ticks' escapes."""
    lines = PAGE[PAGE.index("| key | in QEMU |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip().replace("\\|", "|") for cell in CELL.split(line)[1:-1]] for line in lines]


def test_every_key_is_there() -> None:
    named = " ".join(re.sub(r"[`]", " ", row[0]) for row in rows())
    missing = [name for name in keys.USER if not re.search(rf"(?<![a-z-]){re.escape(name)}=", named)]
    assert not missing


def example(row: list[str]) -> tuple[list[str], str]:
    words = shlex.split(row[3].strip("`"))
    assert words[0].startswith("T")
    assert row[4].strip("`"), f"{row[0]}: an example that shows nothing"
    return [*shlex.split(CARD + words[0][1:]), *words[1:]], row[4].strip("`")


def test_every_example_runs(tmp_path: Path) -> None:
    """All on one host, two at a time; those by dhclient only where there is one."""
    wanted = [example(row) for row in rows() if not row[0].startswith(f"`{ELSEWHERE}")]
    if not shutil.which("dhclient", path=root_runner(tmp_path).env["PATH"]):
        wanted = [(words, text) for words, text in wanted if "dhclient" not in " ".join(words)]
    (tmp_path / "words").write_text(json.dumps([words for words, _ in wanted]))
    (tmp_path / "host.py").write_text(HOST)
    done = subprocess.run(
        [
            "unshare",
            "--net",
            "--mount",
            "sh",
            "-c",
            SETUP,
            sys.executable,
            f"{tmp_path}/host.py",
            f"{tmp_path}/words",
        ],
        env=root_runner(tmp_path).env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    wrong = [
        (" ".join(words), text, output)
        for (words, text), output in zip(wanted, json.loads(done.stdout), strict=True)
        if text not in output or "tapnet:" in output
    ]
    assert not wrong
    needs.program("dhclient", "isc-dhcp-client")
