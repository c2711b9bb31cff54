"""FTP clients in a guest, in active and passive mode, and a real server on the host (in a network of the test's own)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.netns.exec_kit import Runner, blob, root_runner
from tests.waiting import BOUND_S

SETTINGS = """listen=YES
anonymous_enable=YES
anon_root={share}
write_enable=NO
anon_max_rate=0
connect_from_port_20=YES
port_enable=YES
pasv_enable=YES
seccomp_sandbox=NO
secure_chroot_dir={share}
"""


@pytest.fixture
def lonely(tmp_path: Path) -> Runner:
    """tapnet on a host that has nothing but a loopback and an FTP server."""
    share = tmp_path / "share"
    share.mkdir()
    (share / "f").write_bytes(blob(500_000))
    for parent in share.parents:
        if parent != Path("/") and not parent.stat().st_mode & 1:
            parent.chmod(parent.stat().st_mode | 0o11)
    share.chmod(0o555)
    (tmp_path / "vsftpd.conf").write_text(SETTINGS.format(share=share))
    start = f'ip link set lo up; vsftpd {tmp_path}/vsftpd.conf & "$0" "$@"; status=$?; kill $!; exit $status'
    runner = root_runner(tmp_path)
    return Runner("lonely", ("unshare", "--net", "sh", "-c", start, sys.executable), runner.env, runner.home)


CLIENTS = {
    "curl active": "curl -sS --max-time 40 -P - --disable-eprt ftp://10.0.2.2/f",
    "curl active, EPRT": "curl -sS --max-time 40 -P - ftp://10.0.2.2/f",
    "lftp active": "lftp -c 'set ftp:passive-mode no; set net:max-retries 2; open ftp://10.0.2.2; cat f'",
}
PASSIVE = "curl -sS --max-time 40 --disable-epsv --no-ftp-skip-pasv-ip --ftp-skip-pasv-ip ftp://10.0.2.2/f"


def test_active_and_passive(lonely: Runner) -> None:
    wait = "until nc -z 10.0.2.2 21; do sleep 0.1; done"
    script = "; ".join(
        [
            wait,
            *(f"{command} | sha256sum" for command in (*CLIENTS.values(), PASSIVE)),
            f"sha256sum < {lonely.home}/share/f",
        ]
    )
    done = lonely.run(script, "-net", "nic,model=direct", "-net", "user,ftp=on", seconds=BOUND_S)
    sums = done.stdout.split()[::2]
    assert len(sums) == len(CLIENTS) + 2, done.stderr
    assert len(set(sums)) == 1, (done.stdout, done.stderr)


@pytest.mark.slow
def test_without_help_active_mode_fails(lonely: Runner) -> None:
    script = f"until nc -z 10.0.2.2 21; do sleep 0.1; done; {CLIENTS['curl active']} | wc -c"
    done = lonely.run(script, "-net", "nic,model=direct", "-net", "user", seconds=BOUND_S)
    assert done.stdout == "0\n"
