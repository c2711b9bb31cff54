"""All options together: defaults, wires, hub ports, --mode, warnings."""

import pytest

from tapnet.config import DumpNet, Nic, TapNet, UserNet
from tapnet.errors import OptionError
from tapnet.options.parse import parse

SHOW = {UserNet: "user", TapNet: "tap", Nic: "nic", DumpNet: "dump"}


def made(line: str, command: str = "run", **kwargs):
    return parse(line.split(), command, **kwargs)


def shape(config):
    """Members as text: kind@vlan, "-" in front of what is not plugged."""
    found = []
    for member in config.members:
        kind = member.model if isinstance(member, Nic) else member.kind
        plugged = "" if isinstance(member, Nic) or member.plugged else "-"
        found.append(f"{plugged}{kind}@{'wire' if member.vlan is None else member.vlan}")
    return " ".join(found)


SHAPES = [
    ("run", "", "ne2k_pci@0 user@0"),
    ("run", "-m 64 -redir tcp:1::2", "ne2k_pci@0 user@0"),
    ("run", "-net none", ""),
    ("run", "-nic none", ""),
    ("run", "-net nic", "ne2k_pci@0"),
    ("run", "-net user", "user@0"),
    ("run", "-net nic,vlan=1 -net user,vlan=1", "ne2k_pci@1 user@1"),
    ("run", "-netdev user,id=u -device pcnet,netdev=u", "user@wire pcnet@wire"),
    ("run", "-device pcnet,vlan=2", "pcnet@2"),
    ("run", "-netdev user,id=u -net nic,netdev=u", "user@wire ne2k_pci@wire"),
    ("run", "-nic user,model=pcnet", "pcnet@wire user@wire"),
    ("run", "-nic model=pcnet", "pcnet@wire user@wire"),
    ("run", "-nic hubport,hubid=3", "ne2k_pci@3"),
    ("run", "-netdev user,id=u -netdev hubport,id=h,hubid=4,netdev=u", "user@4"),
    ("run", "-netdev hubport,id=h,hubid=4 -device pcnet,netdev=h", "pcnet@4"),
    ("run", "-device pcnet,netdev=h -netdev hubport,id=h,hubid=4", "pcnet@4"),
    ("run", "-netdev user,id=u -net hubport,hubid=1,netdev=u -net nic,vlan=1", "user@1 ne2k_pci@1"),
    ("exec", "", "ne2k_pci@0 user@0"),
    ("exec", "-net user", "ne2k_pci@0 user@0"),
    ("exec", "-net user,vlan=2", "ne2k_pci@2 user@2"),
    ("exec", "-net nic,model=direct", "direct@0 user@0"),
    ("exec", "-net nic,vlan=5", "ne2k_pci@5 user@5"),
    ("exec", "-net nic -net socket,listen=:1", "ne2k_pci@0 socket@0"),
    ("exec", "-net none", ""),
    ("exec", "-nic user", "ne2k_pci@wire user@wire"),
]


@pytest.mark.parametrize(("command", "line", "expected"), SHAPES)
def test_shape(command, line, expected):
    assert shape(made(line, command)) == expected


# Issue 4, item 2
MODES = [
    ("", "user", "ne2k_pci@0 user@0"),
    ("", "tap", "ne2k_pci@0 tap@0"),
    ("-net nic -net user -net tap", "user", "ne2k_pci@0 user@0 -tap@0"),
    ("-net nic -net user -net tap", "tap", "ne2k_pci@0 -user@0 tap@0"),
    ("-net nic -net user", "tap", "ne2k_pci@0 -user@0 tap@0"),
    ("-net nic -net tap,ifname=t", "user", "ne2k_pci@0 -tap@0 user@0"),
    ("-net nic -net bridge", "user", "ne2k_pci@0 -tap@0 user@0"),
    ("-net nic", "tap", "ne2k_pci@0 tap@0"),
    ("-net nic -net socket,listen=:1", "tap", "ne2k_pci@0 socket@0"),
    (
        "-net nic -net user -net nic,vlan=1 -net tap,vlan=1",
        "tap",
        "ne2k_pci@0 -user@0 ne2k_pci@1 tap@1 tap@0",
    ),
    ("-nic", "tap", "ne2k_pci@wire tap@wire"),
    ("-net none", "tap", ""),
]


@pytest.mark.parametrize(("line", "mode", "expected"), MODES)
def test_mode(line, mode, expected):
    words = ["-nic", "model=ne2k_pci"] if line == "-nic" else line.split()
    assert shape(parse([*words, "--mode", mode])) == expected
    assert shape(parse(words, environ={"TAPNET_MODE": mode})) == expected


def test_the_tap_that_mode_adds_is_on_br0():
    net = parse(["--mode", "tap"]).nets[0]
    assert (net.br, net.origin, net.name) == ("br0", "-net tap", "tap.0")


def test_mode_of_exec():
    assert shape(made("--mode tap", "exec")) == "ne2k_pci@0 tap@0"


def test_no_mode_plugs_everything():
    assert shape(made("-net nic -net user -net tap")) == "ne2k_pci@0 user@0 tap@0"


def test_wires_pair_cards_and_backends():
    config = made(
        "-netdev user,id=u -netdev tap,id=t -device pcnet,netdev=t -nic user -device ne2k_pci -netdev vde,id=v"
    )
    pairs = [(w.nic.name if w.nic else None, w.net.name if w.net else None) for w in config.wires]
    assert pairs == [
        ("pcnet.0", "t"),
        ("ne2k_pci.0", "user.1"),
        ("ne2k_pci.1", None),
        (None, "u"),
        (None, "v"),
    ]


def test_vlans_in_order_of_number_members_in_order_of_options():
    config = made("-net user,vlan=7 -net nic -net user -net nic,vlan=7")
    names = {vlan: [m.name for m in members] for vlan, members in config.vlans.items()}
    assert names == {0: ["ne2k_pci.0", "user.1"], 7: ["user.0", "ne2k_pci.1"]}
    assert list(config.vlans) == [0, 7]


def test_names_of_nets():
    config = made("-net user -net user,name=user.0 -net user,id=x -net tap")
    assert [net.name for net in config.nets] == ["user.1", "user.0", "x", "tap.0"]
    with pytest.raises(OptionError, match="name=a: already -net user's name"):
        made("-net user,name=a -net tap,name=a")


def test_the_keys_of_nic_go_to_the_side_that_knows_them():
    config = made("-nic tap,ifname=tap7,mac=02:00:00:00:00:01,model=pcnet,id=n,mtu=1400,addr=5", "exec")
    nic, tap = config.members
    assert (nic.mac.hex(), nic.id, nic.mtu, nic.ifname, nic.slot) == ("020000000001", "n", 1400, "eth0", 5)
    assert (tap.ifname, tap.mtu, tap.mac) == ("tap7", 1400, None)
    nic, user = made("-nic user,ifname=wan0,hostname=x,model=direct,mtu=9000,netns=/n").members
    assert (nic.ifname, nic.mtu, user.mtu, user.dhcp.hostname) == ("wan0", 9000, 9000, "x")


def test_the_old_options_leave_a_nats_own_ones_alone():
    a, b = made("-net user,tftp=/a -net user,vlan=1 -tftp /t -redir tcp:1::2").nets
    assert (a.tftp.directory, b.tftp.directory) == ("/a", "/t")
    assert (len(a.forwards), len(b.forwards)) == (1, 0)


def test_switches_and_filters():
    config = made(
        "-net nic -net user -net hub,vlan=2,switch=on -net hub,switch=off -object filter-dump,id=f,netdev=user.0,file=x"
    )
    assert config.switches == (2,)
    assert [(f.netdev, f.file, f.queue, f.maxlen) for f in config.filters] == [("user.0", "x", "all", 65536)]


NO_GUEST = "no guest is attached to ne2k_pci.0: use netns=PATH|PID or vfio-user=PATH of -net nic, or -qtest, or tapnet exec"
WARNINGS = [
    ("run", "", [NO_GUEST]),
    ("exec", "", []),
    ("run", "-qtest stdio", []),
    ("run", "-net nic,netns=/n -net user", []),
    ("exec", "-net nic -net none", ["-net none: means nothing beside other nets and cards"]),
    ("exec", "-net nic -net user -net user", ["VLAN 0: user.0 and user.1 are both 10.0.2.2"]),
    (
        "run",
        "-net nic,netns=/n",
        ["VLAN 0 has a card and nothing else (-net user,vlan=0 would join it to the host)"],
    ),
    (
        "run",
        "-net nic,netns=/n,vlan=3 -net nic,netns=/m,vlan=3",
        ["VLAN 3 has 2 cards and nothing else (-net user,vlan=3 would join it to the host)"],
    ),
    ("run", "-net user", ["VLAN 0 has no card"]),
    ("run", "-net socket,listen=:1", []),
    ("run", "-net user -net socket,connect=h:1", []),
    ("run", "-netdev user,id=u", ["-netdev user: netdev u has no peer"]),
    ("run", "-device pcnet,netns=/n", ["-device pcnet: pcnet.0 has no peer"]),
    ("run", "-netdev hubport,id=h,hubid=0", ["-netdev hubport: hub port h has no peer"]),
    (
        "exec",
        "-net user -net nic,macaddr=02:0:0:0:0:1 -net nic,macaddr=02:0:0:0:0:1",
        ["VLAN 0: ne2k_pci.0 and ne2k_pci.1 have the same MAC 02:00:00:00:00:01"],
    ),
    ("exec", "-nic user --mode tap", ["-nic user: a private wire, --mode tap leaves it as it is"]),
]


@pytest.mark.parametrize(("command", "line", "expected"), WARNINGS)
def test_warnings(command, line, expected):
    assert list(made(line, command).warnings) == expected


def test_one_mac_on_two_vlans_is_no_warning():
    line = "-net user -net nic,macaddr=02:0:0:0:0:1 -net user,vlan=1 -net nic,vlan=1,macaddr=02:0:0:0:0:1"
    assert made(line, "exec").warnings == ()


BAD = [
    ("exec", "-monitor stdio", "-monitor stdio: the terminal belongs to COMMAND (use unix:PATH)"),
    (
        "run",
        "-netdev user,id=u -netdev hubport,id=a,hubid=0,netdev=u -device pcnet,netdev=u",
        "-device pcnet: netdev=u: already used by -netdev hubport",
    ),
    (
        "run",
        "-netdev hubport,id=a,hubid=0 -netdev hubport,id=b,hubid=1,netdev=a",
        "-netdev hubport: netdev=a: a hubport cannot join another hubport",
    ),
    (
        "run",
        "-netdev hubport,id=a,hubid=0 -device pcnet,netdev=a -device pcnet,netdev=a",
        "-device pcnet: netdev=a: already used by -device pcnet",
    ),
    (
        "run",
        "-netdev hubport,id=a,hubid=0 -netdev user,id=a",
        "-netdev user: id=a: already given to -netdev hubport",
    ),
    (
        "run",
        "-net user,hostfwd=tcp::1-:1 -net user,vlan=1,hostfwd=tcp::1-:1",
        "-net user: hostfwd=tcp::1-:1: taken by tcp::1-:1",
    ),
    (
        "run",
        "-net user,hostfwd=tcp::1-:1 -redir tcp:1::2",
        "-net user: -redir tcp:1::2: taken by tcp::1-:1",
    ),
    ("run", "-redir tcp:1:10.0.3.1:2", "-redir: tcp:1:10.0.3.1:2: guest 10.0.3.1 is not in net=10.0.2.0/24"),
]


@pytest.mark.parametrize(("command", "line", "message"), BAD)
def test_contradictions(command, line, message):
    with pytest.raises(OptionError) as caught:
        made(line, command)
    assert str(caught.value) == message


def test_free_host_ports_do_not_collide():
    assert (
        len(
            made("-net user,hostfwd=tcp::0-:1,hostfwd=tcp::0-:2,hostfwd=udp::5-:1,hostfwd=tcp::5-:1")
            .nets[0]
            .forwards
        )
        == 4
    )
