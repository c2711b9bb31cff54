"""Command lines and TOML files that are right, and properties that hold for all of them."""

import json
import string
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tapnet.config import (
    DgramNet,
    DumpNet,
    Endpoint,
    Fd,
    Lease,
    Nic,
    SocketNet,
    StreamNet,
    TapNet,
    UnixPath,
    UserNet,
    VdeNet,
    VxlanNet,
    WsNet,
)
from tapnet.errors import OptionError
from tapnet.options import converters as words
from tapnet.options import tables as keys
from tapnet.options.parse import parse, parse_option
from tapnet.options.sources import UsageAsked


def one(line: str, command: str = "run"):
    """The last net of a command line cut at blanks."""
    return parse(line.split(" "), command).nets[-1]


def fields(value, **expected):
    """Compare some fields of a dataclass."""
    assert {name: getattr(value, name) for name in expected} == expected


# ---- the words ------------------------------------------------------------------------------------------------


def test_nothing_given_is_a_card_on_the_nat():
    nic, net = parse([]).members
    fields(nic, origin="-net nic", model="ne2k_pci", vlan=0, slot=3, name="ne2k_pci.0")
    assert nic.mac.hex(":") == "52:54:00:12:34:56"
    assert isinstance(net, UserNet)
    assert (str(net.v4.net), str(net.v4.host), str(net.v4.dns)) == ("10.0.2.0/24", "10.0.2.2", "10.0.2.3")
    assert (str(net.v4.dhcpstart), str(net.v6.host), str(net.v6.dns)) == ("10.0.2.15", "fec0::2", "fec0::3")


@pytest.mark.parametrize(
    "line",
    [
        "-net user,hostname=a -m 32",
        "--net user,hostname=a --m 32",
        "-net=user,hostname=a -m=32",
        "--net type=user,hostname=a -m size=32",
        "-net user,hostname=a, -m 32M",
    ],
)
def test_spellings_of_one_line(line):
    config = parse(line.split(" "))
    assert config.nets[0].dhcp.hostname == "a"
    assert config.memory == 32 << 20


def test_order_is_kept_across_options():
    config = parse(
        "-net user -netdev tap,id=t -device pcnet,netdev=t -net nic -nic socket,listen=:1".split(" "), "run"
    )
    kinds = [m.model if isinstance(m, Nic) else m.kind for m in config.members]
    assert kinds == ["user", "tap", "pcnet", "ne2k_pci", "ne2k_pci", "socket"]


def test_exec_finds_its_command():
    for line in ("-net user -- curl -v x", "-net user curl -v x"):
        assert parse(line.split(" "), "exec").command == ("curl", "-v", "x")
    assert parse(["--keep-uid", "id"], "exec").keep_uid
    assert parse(["--", "--", "x"], "exec").command == ("--", "x")


@pytest.mark.parametrize("word", ["-h", "-help", "--help"])
def test_usage(word):
    with pytest.raises(UsageAsked):
        parse(["-net", "user", word])


def test_behind_the_command_nothing_is_ours():
    assert parse(["curl", "--help"], "exec").command == ("curl", "--help")


def test_a_switch_alone_is_on():
    assert one("-net user,restrict").restrict
    with pytest.raises(OptionError, match="restrict=maybe: not on or off"):
        one("-net user,restrict=maybe")


def test_json_as_qemu_takes_it():
    tree = {"type": "user", "id": "u", "dnssearch": [{"str": "a"}, {"str": "b"}], "restrict": True}
    net = parse(["-netdev", json.dumps(tree), "-device", '{"driver":"pcnet","netdev":"u","addr":"5"}']).nets[
        0
    ]
    fields(net, id="u", restrict=True)
    assert net.dhcp.search == ("a", "b")


# ---- nets -----------------------------------------------------------------------------------------------------


def test_user_keys():
    net = one(
        "-net user,vlan=2,net=192.168.5.0/24,host=192.168.5.1,dns=192.168.5.9,dhcpstart=192.168.5.100,"
        "hostname=box,domainname=lan,dnssearch=a.lan,dnssearch=b.lan,resolver=127.0.0.1:5353+[::1]:54,"
        "hostloopback=off,lease-time=2m,mtu=1400,buffers=8M,restrict=on,tftp=/srv,tftp-write=on,"
        "tftp-server-name=boot,bootfile=a.0,bootfile=7=b.efi,smb=/share,smbserver=192.168.5.4,smb-legacy=on,"
        "allow=10.0.0.0/8,deny=tcp:0.0.0.0/0:25,allow=::/0,record=web=192.168.5.50,ftp=on,"
        "lease=52:54:00:12:34:56=192.168.5.50=web,guestfwd=tcp:192.168.5.77:80-cmd:cat_-n,name=nat"
    )
    fields(net, vlan=2, name="nat", restrict=True, hostloopback=False, mtu=1400, buffers=8 << 20, ftp="on")
    assert net.v4.net == IPv4Network("192.168.5.0/24")
    assert [str(a) for a in (net.v4.host, net.v4.dns, net.v4.dhcpstart)] == [
        "192.168.5.1",
        "192.168.5.9",
        "192.168.5.100",
    ]
    fields(
        net.dhcp, hostname="box", domainname="lan", search=("a.lan", "b.lan"), lease_time=120, bootfile="a.0"
    )
    fields(net.dhcp, bootfiles=((7, "b.efi"),), tftp_server_name="boot")
    lease = Lease(bytes.fromhex("525400123456"), IPv4Address("192.168.5.50"), "web")
    assert net.dhcp.leases == (lease,)
    assert net.resolvers == (("127.0.0.1", 5353), ("::1", 54))
    fields(net.tftp, directory="/srv", write=True)
    fields(net.smb, directory="/share", server=IPv4Address("192.168.5.4"), legacy=True)
    assert [(rule.allow, str(rule.net)) for rule in net.rules] == [
        (True, "10.0.0.0/8"),
        (False, "0.0.0.0/0"),
        (True, "::/0"),
    ]
    assert net.records == (("web", IPv4Address("192.168.5.50")),)
    assert net.guest_forwards[0].to == "cat_-n"


# QEMU's addresses are net | 0x0202 under the mask; where that cannot be, the next one that can
NETS = [
    ("net=10.0.2.0/24", "10.0.2.0/24", "10.0.2.2", "10.0.2.3", "10.0.2.15"),
    ("net=10.0.0.0/8", "10.0.0.0/8", "10.0.2.2", "10.0.2.3", "10.0.2.15"),
    ("net=172.16.5.9/12", "172.16.0.0/12", "172.16.2.2", "172.16.2.3", "172.16.2.15"),
    ("net=10.9.9.0/255.255.255.0", "10.9.9.0/24", "10.9.9.2", "10.9.9.3", "10.9.9.15"),
    ("net=10.9.9.0,mask=255.255.0.0", "10.9.0.0/16", "10.9.2.2", "10.9.2.3", "10.9.2.15"),
    ("ip=10.9.9.7", "10.9.9.0/24", "10.9.9.2", "10.9.9.3", "10.9.9.15"),
    ("net=10.0.2.32/27", "10.0.2.32/27", "10.0.2.34", "10.0.2.35", "10.0.2.47"),
    ("net=10.0.2.0/29", "10.0.2.0/29", "10.0.2.2", "10.0.2.3", "10.0.2.1"),
    ("host=10.0.2.15", "10.0.2.0/24", "10.0.2.15", "10.0.2.3", "10.0.2.16"),
    ("dns=192.0.2.53", "10.0.2.0/24", "10.0.2.2", "192.0.2.53", "10.0.2.15"),
]


@pytest.mark.parametrize(("key", "net", "host", "dns", "first"), NETS)
def test_addresses_of_the_nat(key, net, host, dns, first):
    v4 = one(f"-net user,{key}").v4
    assert [str(a) for a in (v4.net, v4.host, v4.dns, v4.dhcpstart)] == [net, host, dns, first]


# FACTS 49
CLASSFUL = [
    ("10.9.0.0", 8),
    ("172.16.0.0", 12),
    ("192.168.5.0", 16),
    ("198.18.0.0", 15),
    ("130.1.0.0", 16),
]


@pytest.mark.parametrize(("address", "bits"), CLASSFUL)
def test_a_net_without_bits_is_24_and_says_what_qemu_would_take(address, bits):
    config = parse(["-net", f"user,net={address}"])
    assert str(config.nets[0].v4.net) == f"{address}/24"
    assert config.warnings[0] == (
        f"-net user: net={address} is taken as {address}/24; QEMU would take /{bits}: say which you mean"
    )


FAMILIES = [
    ("", True, True),
    (",ipv4=on", True, False),
    (",ipv6=on", False, True),
    (",ipv4=off", False, True),
    (",ipv6=off", True, False),
    (",ipv4=on,ipv6=on", True, True),
]


@pytest.mark.parametrize(("keys_", "v4", "v6"), FAMILIES)
def test_families_as_qemu_switches_them(keys_, v4, v6):
    net = one(f"-net user{keys_}")
    assert (net.v4 is not None, net.v6 is not None) == (v4, v6)


def test_ipv6_keys():
    assert one("-net user,ipv6-net=fd00:1::/48").v6.net == IPv6Network("fd00:1::/48")
    v6 = one("-net user,ipv6-prefix=fd00::,ipv6-prefixlen=80,ipv6-host=fd00::9,ipv6-dns=[fd00::a]").v6
    assert [str(a) for a in (v6.net, v6.host, v6.dns)] == ["fd00::/80", "fd00::9", "fd00::a"]


def test_old_options_go_to_the_nat():
    net = parse("-redir tcp:5555:10.0.2.16:23 -redir udp:7::9 -tftp /t -bootp x.0 -smb /s".split(" ")).nets[0]
    assert [forward.text for forward in net.forwards] == ["tcp:5555:10.0.2.16:23", "udp:7::9"]
    assert (net.tftp.directory, net.dhcp.bootfile, net.smb.directory) == ("/t", "x.0", "/s")


TAPS = [
    ("tap", {"ifname": None, "br": None, "script": None, "vnet_hdr": None}),
    ("tap,ifname=tap%d,br=br0,vnet_hdr=off,mtu=9000", {"ifname": "tap%d", "br": "br0", "vnet_hdr": False}),
    ("tap,script=no,downscript=/d,sndbuf=1M", {"script": None, "downscript": "/d", "sndbuf": 1 << 20}),
    ("tap,script=,downscript=,sndbuf=0", {"script": None, "downscript": None, "sndbuf": 2**31 - 1}),
    ("tap,fd=7", {"fds": (7,)}),
    ("tap,fds=7:8,vhost=off", {"fds": (7, 8)}),
    ("tap,helper=/h,br=br1", {"helper": "/h", "br": "br1", "bridge": False}),
    ("bridge", {"br": "br0", "bridge": True, "helper": "/usr/lib/qemu/qemu-bridge-helper"}),
    ("tap,mac=02:00:00:00:00:01,queues=2", {"mac": bytes.fromhex("020000000001"), "queues": 2}),
]


@pytest.mark.parametrize(("text", "expected"), TAPS)
def test_tap(text, expected):
    for net in (one(f"-net {text}"), one(f"-netdev {text},id=t")):
        assert isinstance(net, TapNet)
        fields(net, **expected)


WIRES = [
    ("socket,listen=localhost:1234", SocketNet, {"listen": Endpoint("localhost", 1234)}),
    ("socket,listen=1234", SocketNet, {"listen": Endpoint("", 1234)}),
    ("socket,connect=[::1]:1234", SocketNet, {"connect": Endpoint("::1", 1234)}),
    ("socket,mcast=230.0.0.1:1234,localaddr=127.0.0.1", SocketNet, {"localaddr": Endpoint("127.0.0.1", 0)}),
    ("socket,udp=h:1,localaddr=:2", SocketNet, {"udp": Endpoint("h", 1), "localaddr": Endpoint("", 2)}),
    ("socket,connect=:1234", SocketNet, {"connect": Endpoint("127.0.0.1", 1234)}),
    ("socket,udp=:1,localaddr=:2", SocketNet, {"udp": Endpoint("127.0.0.1", 1)}),
    ("socket,fd=4", SocketNet, {"fd": 4}),
    ("stream,addr.type=unix,addr.path=/s,server=on", StreamNet, {"address": UnixPath("/s"), "server": True}),
    ("stream,addr.type=unix,addr.path=s,addr.abstract=on", StreamNet, {"address": UnixPath("s", True)}),
    ("stream,addr.type=unix,addr.path=@s,addr.tight=on", StreamNet, {"address": UnixPath("s", True)}),
    (
        "stream,addr.type=unix,addr.path=s,addr.abstract=on,addr.tight=off",
        StreamNet,
        {"address": UnixPath("s" + "\0" * 106, True)},
    ),
    ("stream,addr.type=inet,addr.host=h,addr.port=5,reconnect=2", StreamNet, {"reconnect_ms": 2000}),
    ("stream,addr.type=inet,addr.host=::1,addr.port=5", StreamNet, {"address": Endpoint("::1", 5)}),
    ("stream,addr.type=fd,addr.str=5,reconnect-ms=30", StreamNet, {"address": Fd(5), "reconnect_ms": 30}),
    ("dgram,local.type=fd,local.str=3", DgramNet, {"local": Fd(3), "remote": None, "multicast": False}),
    (
        "dgram,remote.type=inet,remote.host=230.0.0.1,remote.port=9",
        DgramNet,
        {"multicast": True, "local": None},
    ),
    ("vde,sock=/run/vde,port=3,mode=0770", VdeNet, {"sock": "/run/vde", "port": 3, "file_mode": 0o770}),
    ("ws,listen=:80,origin=https://a,origin=https://b", WsNet, {"origins": ("https://a", "https://b")}),
    ("vxlan,vni=7,remote=10.0.0.1", VxlanNet, {"vni": 7, "port": 4789}),
]


@pytest.mark.parametrize(("text", "kind", "expected"), WIRES)
def test_wires(text, kind, expected):
    for net in (one(f"-net {text}"), one(f"-netdev {text},id=w")):
        assert isinstance(net, kind)
        fields(net, **expected)


def test_vxlan_id_is_its_number_with_net():
    fields(one("-net vxlan,id=42,group=239.1.1.1,dev=eth0"), vni=42, id=None)


def test_dump_names_its_file_after_the_vlan():
    fields(one("-net dump,vlan=3"), kind="dump", file="qemu-vlan3.pcap", len=65536)
    assert isinstance(one("-net dump,file=x.pcap,len=96"), DumpNet)


def test_what_has_no_engine_yet_is_said_and_nothing_else():
    config = parse(
        "-net nic,model=pcnet -net tap,vhost=on,poll-us=1 -net user,ipv6=off,ftp=auto,hostname=a".split(" ")
    )
    assert config.unbuilt == (
        "-net tap: vhost= is not built yet",
        "-net tap: poll-us= is not built yet",
    )


def test_every_key_is_known_under_its_own_name():
    for kind in (*keys.NETS.values(), keys.NIC_KIND):
        assert all(name == key.name for name, key in kind.keys.items())


# ---- TOML -----------------------------------------------------------------------------------------------------

TOML = """
mode = "user"
M = "isapc"
m = 32
name = "lab"
monitor = ["unix:/run/a,server=on,wait=off", "none", "unix:/run/b"]
redir = ["tcp:5555::22"]
tftp = "/srv/a,b"

[[net]]
type = "nic"
model = "ne2k_isa"
irq = 5
iobase = 0x320

[[net]]
type = "user"
vlan = 0
restrict = true
dnssearch = ["a.lan", "b.lan"]
hostname = "x"

[[netdev]]
type = "stream"
id = "s"
server = true
addr = { type = "unix", path = "/run/x,y" }

[[device]]
driver = "ne2k_isa"
netdev = "s"
"""
LINE = [
    *("-mode", "user", "-M", "isapc", "-m", "32", "-name", "lab", "-monitor", "unix:/run/b"),
    *("-redir", "tcp:5555::22", "-tftp", "/srv/a,b", "-net", "nic,model=ne2k_isa,irq=5,iobase=0x320"),
    *("-net", "user,vlan=0,restrict,dnssearch=a.lan,dnssearch=b.lan,hostname=x"),
    *("-netdev", "stream,id=s,server=on,addr.type=unix,addr.path=/run/x,,y", "-device", "ne2k_isa,netdev=s"),
]


def plain(config):
    """``config`` without the texts that tell where things came from."""
    text = repr(config)
    for member in (*config.members, *config.monitors):
        text = text.replace(repr(member.origin), "''")
    return text[: text.index(", files=")]


def test_toml_is_the_command_line(tmp_path):
    file = tmp_path / "lab.toml"
    file.write_text(TOML)
    assert plain(parse(["--config", str(file)])) == plain(parse(LINE))


def test_the_command_line_adds_to_the_files_and_overrides_scalars(tmp_path):
    file = tmp_path / "lab.toml"
    file.write_text('m = 32\nmode = "tap"\n[[net]]\ntype = "nic"\n[[net]]\ntype = "user"\n')
    config = parse(["-net", "nic", "--config", str(file), "-m", "16"], environ={"TAPNET_MODE": "user"})
    assert [m.origin for m in config.members] == [f"{file}: [[net]] 1", f"{file}: [[net]] 2", "-net nic"]
    assert (config.memory, config.mode, config.files) == (16 << 20, "user", (str(file),))
    assert parse(["--config", str(file), "--mode", "tap"], environ={"TAPNET_MODE": "user"}).mode == "tap"
    assert parse(["--config", str(file)], environ={"TAPNET_MODE": ""}).mode == "tap"


BAD_TOML = [
    ("[[net]]\ntype = 'user'\nhostfw = 'x'", '[[net]] 1: unknown key "hostfw" (did you mean "hostfwd"?)'),
    ("[[net]]\ntype = 'nic'\n[[net]]\ntype = 'user'\ndns = 1", "[[net]] 2: dns=1: not an IPv4 address"),
    ("[[net]]\nvlan = 1", "[[net]] 1: needs type= (-net help lists them)"),
    ("[net]\ntype = 'user'", "net: write [[net]] tables"),
    ("[[nett]]\n", 'unknown key "nett" (did you mean "net"?)'),
    ("config = 'x'", 'unknown key "config" (files do not include)'),
    ("mode = 'tip'", 'mode "tip": not one of user, tap (did you mean "tap"?)'),
    ("m = [1]", "m: neither text, number nor true or false"),
    ("m = 1970-01-01", "m: neither text, number nor true or false"),
    ("[[net]]\ntype = 'user'\nrestrict = [true, false]", "[[net]] 1: restrict= is given twice"),
    ("[[net]]\ntype = 'user'\na.b.c.d.e.f.g = 1", "[[net]] 1: tables nested too deep"),
    ("[[net]]\ntype = 'user'\nvlan = 99999999999999999999999", "[[net]] 1: vlan: number too large"),
]


@pytest.mark.parametrize(("text", "message"), BAD_TOML)
def test_bad_toml_names_file_table_and_key(tmp_path, text, message):
    file = tmp_path / "x.toml"
    file.write_text(text)
    with pytest.raises(OptionError) as caught:
        parse(["-config", str(file)])
    assert str(caught.value) == f"{file}: {message}"


@pytest.mark.parametrize("data", [b"a = ", b"\xff\xfe", b"a = 1\na = 2", b"[" * 5000])
def test_files_that_are_no_toml(tmp_path, data):
    file = tmp_path / "x.toml"
    file.write_bytes(data)
    with pytest.raises(OptionError, match=r"x\.toml: "):
        parse(["-config", str(file)])


def test_bad_environment():
    with pytest.raises(OptionError, match='TAPNET_MODE "tip": not one of user, tap'):
        parse([], environ={"TAPNET_MODE": "tip"})


# ---- properties -----------------------------------------------------------------------------------------------

OPTION = st.one_of(
    st.sampled_from([f"-{name}" for name in (*keys.OPTIONS, *keys.ALIASES) if name != "config"])
)
TABLES = {**keys.NETS, "nic": keys.NIC_KIND, "hub": keys.HUB_KIND}
VALUE = st.one_of(
    st.text(max_size=12),
    st.text(alphabet=string.digits + "abcdef.:/-[]x", max_size=20),
    st.sampled_from(
        ["on", "off", "10.0.2.2", "52:54:00:12:34:56", "br0", "u", "0", "3", "::1", "tcp::1-:1", "/x", "help"]
    ),
)


@st.composite
def net_text(draw):
    """An option's value that is nearly right."""
    kind = draw(st.sampled_from([*TABLES, *keys.MODEL_HELP, "none", "nec"]))
    names = [*(TABLES[kind].keys if kind in TABLES else keys.NIC), "vlan", "id", "name"]
    pairs = draw(st.lists(st.tuples(st.sampled_from(names), VALUE), max_size=5))
    return words.join([kind, *(f"{name}={value}" for name, value in pairs)])


@settings(max_examples=400)
@given(
    st.lists(st.one_of(OPTION, VALUE, net_text(), st.text(max_size=8)), max_size=12).filter(
        lambda argv: not any("config" in word for word in argv)
    ),
    st.sampled_from(["run", "exec"]),
)
@example(["-net", "user,net=0/0"], "run")
def test_parse_raises_nothing_but_option_errors(argv, command):
    try:
        parse(argv, command)
    except OptionError as error:
        assert error.status == 0 or (str(error).isprintable() and str(error))


@settings(max_examples=200)
@given(st.sampled_from(["-net", "-netdev", "-nic", "-device"]), net_text())
def test_nearly_right_nets_raise_nothing_but_option_errors(option, text):
    try:
        config = parse([option, text])
    except OptionError:
        return
    assert all(member.name for member in config.members)
    assert len({nic.name for nic in config.nics}) == len(config.nics)


@given(
    st.text(
        alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=50
    )
)
def test_any_path_survives_its_commas(path):
    for argv in (
        ["-net", words.join(["user", "tftp=" + path])],
        ["-netdev", words.join(["user", "id=u", "tftp=" + path])],
    ):
        assert parse(argv).nets[0].tftp.directory == path


def test_one_option_by_itself():
    entry = parse_option("netdev", "user,id=u,hostname=x")
    assert (entry.kind, entry.given.get("id"), entry.net.dhcp.hostname) == ("user", "u", "x")
    assert parse_option("device", "pcnet,netdev=u").given.get("netdev") == "u"
    with pytest.raises(OptionError, match="-netdev user: needs id="):
        parse_option("netdev", "user")


def test_a_port_for_each_family():
    net = one(
        "-net user,hostfwd=tcp::1-:1,hostfwd=tcp:[::]:1-:1,hostfwd=udp:[::1]:1-[fec0::15]:1,hostfwd=tcp:[::1]:2-10.0.2.15:2"
    )
    assert [str(forward.listen) for forward in net.forwards] == [":1", "[::]:1", "[::1]:1", "[::1]:2"]
