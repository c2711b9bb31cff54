"""What a client that is not trusted may add."""

from __future__ import annotations

import pytest

from tapnet.monitor.commands import trust
from tapnet.monitor.commands.control import Control
from tapnet.monitor.hmp import Hmp
from tapnet.monitor.qmp import Qmp
from tapnet.options import tables as keys
from tests.tapnet.monitor.kit import seed_instance

HARMLESS = [
    "host_net_add user vlan=1,net=10.0.9.0/24,hostfwd=tcp::5555-:22",
    "host_net_add socket,listen=127.0.0.1:1234",
    "netdev_add stream,id=a,addr.type=inet,addr.host=localhost,addr.port=1234",
    "netdev_add dgram,id=a,remote.type=inet,remote.host=230.0.0.1,remote.port=1234",
    "netdev_add hubport,id=h,hubid=1",
    "device_add rtl8139,netdev=a,mac=52:54:00:12:34:56",
]
NAMING = [
    "host_net_add user tftp=/etc",
    "host_net_add user,hostfwd=unix:/tmp/x-:22",
    "host_net_add tap,ifname=tap0",
    "host_net_add dump,file=/etc/passwd",
    "host_net_add vde",
    "host_net_add nic,netns=1",
    "netdev_add stream,id=a,server=on,addr.type=unix,addr.path=/tmp/x",
    "netdev_add dgram,id=a,local.type=unix,local.path=/a,remote.type=unix,remote.path=/b",
    "device_add rtl8139,vfio-user=/tmp/x",
    "device_add rtl8139,netns=/proc/1/ns/net",
]
ALWAYS = ["mode tap", "capture start 0 /tmp/x"]


@pytest.mark.parametrize("line", HARMLESS)
def test_harmless(line: str) -> None:
    _, instance = seed_instance()
    assert Hmp(Control(instance), trusted=False).execute(line).text == ""
    assert instance.live.done


@pytest.mark.parametrize("line", NAMING)
def test_what_names_files_or_programs(line: str) -> None:
    _, instance = seed_instance()
    reply = Hmp(Control(instance), trusted=False).execute(line)
    assert not reply.ok and "trusted=on" in reply.text and not instance.live.done
    assert "trusted=on" not in Hmp(Control(instance)).execute(line).text


@pytest.mark.parametrize("line", ALWAYS)
def test_what_is_never_for_strangers(line: str) -> None:
    _, instance = seed_instance()
    reply = Hmp(Control(instance), trusted=False).execute(line)
    assert not reply.ok and "trusted=on" in reply.text


def test_the_same_by_qmp() -> None:
    _, instance = seed_instance()
    session = Qmp(Control(instance), trusted=False)
    session.start(b'{"execute": "qmp_capabilities"}')
    bad = session.start(
        b'{"execute": "netdev_add", "arguments": {"type": "user", "id": "u", "tftp": "/etc"}}'
    )
    assert "trusted=on" in bad.value["error"]["desc"]
    good = session.start(b'{"execute": "netdev_add", "arguments": {"type": "user", "id": "u"}}')
    assert good.value == {"return": {}}


def test_a_wrong_option_is_refused_by_its_own_words() -> None:
    _, instance = seed_instance()
    reply = Hmp(Control(instance), trusted=False).execute("netdev_add user,id=u,bogus=1")
    assert 'unknown key "bogus"' in reply.text


def test_every_harmless_key_is_a_key() -> None:
    """A misspelt one would never be noticed."""
    tables = {name: kind.keys for name, kind in keys.NETS.items()} | {"nic": keys.NIC, "hub": keys.HUB}
    for kind, names in trust.HARMLESS.items():
        assert names <= set(tables[kind]), kind
    for kind in ("tap", "bridge", "vxlan", "vde", "dump"):
        assert kind not in trust.HARMLESS
    named = ("FILE", "DIR", "PATH", "PROGRAM", "PID", "FD")
    for kind, names in trust.HARMLESS.items():
        for name in names:
            meta = tables[kind][name].meta
            # a boot file is the guest's; redirections are judged by their values
            judged = name in ("bootfile", "hostfwd", "guestfwd")
            assert judged or not any(word in meta for word in named), (kind, name)
