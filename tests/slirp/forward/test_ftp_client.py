"""PORT and EPRT of a guest's client: what is rewritten, for whom, and that the server's connection comes through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slirp.config import Config
from slirp.forward.ftp_client import GuestControl
from slirp.wire.ipv4 import ip_bytes
from tests.slirp.fakes import FakeClient, FakeHost, FakeTcp, Net
from tests.slirp.forward.test_ftp_server import Owner
from tests.slirp.test_stack import tcp

SERVER = ("192.0.2.21", 21)


class Events:
    def __init__(self, guest: str) -> None:
        self.guest = ip_bytes(guest)
        self.connected = False

    def host_connected(self, now: int) -> None:
        self.connected = True


class Session:
    def __init__(self, guest: str = "10.0.2.15", local: str = "198.51.100.5") -> None:
        self.owner, host = Owner(), FakeHost()
        self.control = GuestControl(self.owner, host, SERVER)
        events = Events(guest)
        self.control.open(events)  # type: ignore[arg-type]
        self.sock: FakeTcp = host.tcps[0]
        self.sock.local = (local, 50000)  # type: ignore[attr-defined]
        self.control.host_connected(0)
        assert events.connected
        self.control.watch(True, False)
        owner_port = self.owner.expect

        def expect(control: GuestControl, port: int) -> object:
            found = owner_port(control, port)
            if found is not None:
                found.address = (local, found.address[1])
            return found

        self.owner.expect = expect  # type: ignore[method-assign, assignment]

    def say(self, *data: bytes) -> bytes:
        before = len(self.sock.sent)
        for piece in data:
            assert self.control.send(piece) == len(piece)
        return bytes(self.sock.sent[before:])


LINES = [
    (b"PORT 10,0,2,15,200,10\r\n", b"PORT 198,51,100,5,4,1\r\n", [51210]),
    (b"port 10,0,2,15,200,10\r\n", b"port 198,51,100,5,4,1\r\n", [51210]),
    (b"EPRT |1|10.0.2.15|51210|\r\n", b"EPRT |1|198.51.100.5|1025|\r\n", [51210]),
    (
        b"USER me\r\nPORT 10,0,2,15,200,10\r\nLIST\r\n",
        b"USER me\r\nPORT 198,51,100,5,4,1\r\nLIST\r\n",
        [51210],
    ),
    (b"PORT 10,0,2,16,200,10\r\n", b"PORT 10,0,2,16,200,10\r\n", []),
    (b"PORT 10,0,2,15,300,10\r\n", b"PORT 10,0,2,15,300,10\r\n", []),
    (b"PORT 10,0,2,15,0,0\r\n", b"PORT 10,0,2,15,0,0\r\n", []),
    (b"EPRT |1|10.0.2.99|51210|\r\n", b"EPRT |1|10.0.2.99|51210|\r\n", []),
    (b"EPRT |2|10.0.2.15|99999|\r\n", b"EPRT |2|10.0.2.15|99999|\r\n", []),
    (b"PORTAL\r\nNOOP PORT 10,0,2,15,1,1\r\n", b"PORTAL\r\nNOOP PORT 10,0,2,15,1,1\r\n", []),
]


@pytest.mark.parametrize(("said", "sent", "asked"), LINES)
@pytest.mark.parametrize("step", [1, 3, 1000])
def test_lines(said: bytes, sent: bytes, asked: list[int], step: int) -> None:
    session = Session()
    assert session.say(*[said[at : at + step] for at in range(0, len(said), step)]) == sent
    assert session.owner.asked == asked


def test_ipv6() -> None:
    session = Session("fec0::15", "2001:db8::5")
    assert session.say(b"EPRT |2|fec0::15|51210|\r\n") == b"EPRT |2|2001:db8::5|1025|\r\n"
    assert session.say(b"EPRT |2|fec0::16|51210|\r\n") == b"EPRT |2|fec0::16|51210|\r\n"


@pytest.mark.parametrize(
    "reply", [[b"234 go\r\n"], [b"220 hello\r\n2", b"34 go\r\n"], [b"220 x\r\n234 go\r\n"]]
)
def test_nothing_is_read_under_tls(reply: list[bytes]) -> None:
    session = Session()
    session.sock.inbox = list(reply)
    for _ in reply:
        session.control.recv(100)
    assert session.say(b"PORT 10,0,2,15,200,10\r\n") == b"PORT 10,0,2,15,200,10\r\n"


def test_no_room_no_change() -> None:
    session = Session()
    session.owner.full = True
    assert session.say(b"PORT 10,0,2,15,200,10\r\n") == b"PORT 10,0,2,15,200,10\r\n"


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_any_bytes_come_out_whole(pieces: list[bytes]) -> None:
    session = Session()
    sent = session.say(*pieces)
    session.control.shutdown()
    if b"PORT" not in b"".join(pieces).upper() and b"EPRT" not in b"".join(pieces).upper():
        assert bytes(session.sock.sent) == b"".join(pieces)
    assert len(sent) <= len(session.sock.sent)


@pytest.mark.parametrize(
    ("ftp", "port", "helped"), [("on", 21, True), ("on", 80, False), ("auto", 21, False)]
)
def test_who_is_helped(ftp: str, port: int, helped: bool) -> None:
    (target,) = Net(Config(ftp=ftp)).stack.targets(ip_bytes("192.0.2.21"), port)
    assert isinstance(target, GuestControl) is helped


def test_the_servers_connection_reaches_the_guest() -> None:
    net = Net(Config(ftp="on"))
    net.put(tcp("192.0.2.21", 21))
    (sock,) = net.host.tcps
    sock.local = ("198.51.100.5", 50000)  # type: ignore[attr-defined]
    control = sock.events
    assert isinstance(control, GuestControl)
    control.host_connected(net.now)
    net.take()
    control.send(b"PORT 10,0,2,15,200,10\r\n")
    (listener,) = net.host.listeners.values()
    listener.call(net.now, FakeClient(("203.0.113.9", 20)))
    assert not net.ips(), "a stranger"
    listener.call(net.now, FakeClient(("192.0.2.21", 20)))
    (syn,) = net.ips()
    assert (syn.src, syn.dst, syn.ports, syn.body[13]) == ("192.0.2.21", "10.0.2.15", (20, 51210), 2)
    assert listener.closed
