"""Names of our own, asked by dig and the C library in a guest; the world's names go on by the same server."""

from __future__ import annotations

from pathlib import Path

from tests.netns.exec_kit import daemon, root_runner
from tests.netns.support import until_sync
from tests.netns.test_exec import free_port, listening


def test_records_guests_and_the_world(tmp_path: Path) -> None:
    port = free_port()
    argv = ["dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", f"--port={port}"]
    argv += [
        "--listen-address=127.0.0.1",
        "--bind-interfaces",
        "--address=/world.test/192.0.2.7",
        "--user=root",
    ]
    keys = (
        f"resolver=127.0.0.1:{port},domainname=lab.test,record=db=10.0.2.99,record=v6.lab.test=2001:db8::6,"
        "lease=52:54:00:12:34:56=10.0.2.40=box"
    )
    script = (
        "for how in +notcp +tcp; do for ask in 'world.test' 'db.lab.test' 'AAAA v6.lab.test' 'box' '-x 10.0.2.40'"
        " '-x 10.0.2.99'; do dig $how +short $ask; done; done; dig +tcp +keepopen +short db world.test box;"
        "getent hosts db.lab.test; getent hosts 10.0.2.40"
    )
    with daemon(argv):
        until_sync(lambda: listening(port), "dnsmasq")
        done = root_runner(tmp_path).run(script, "-net", "nic,model=direct", "-net", f"user,{keys}")
    once = ["192.0.2.7", "10.0.2.99", "2001:db8::6", "10.0.2.40", "box.lab.test.", "db.lab.test."]
    rest = ["10.0.2.99", "192.0.2.7", "10.0.2.40"]
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines == [*once, *once, *rest, "10.0.2.99 db.lab.test", "10.0.2.40 box.lab.test"], done.stderr
