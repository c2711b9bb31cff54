"""The helper for FTP servers behind a redirection: the stream that is rewritten, and the port that waits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slirp.config import Config
from slirp.forward.ftp_server import EXPECT, EXPECTED, LINE, PER_CONTROL, Control
from slirp.forward.tcp import DataPort, Rule
from tests.slirp.fakes import SECOND, FakeClient, FakeListener, Net
from tests.slirp.forward.test_tcp import ACK, SYN, Segment, segments, tcp

LISTEN = ("0.0.0.0", 2121)
CHOSEN = ("127.0.0.5", 2121)
PASV = b"227 Entering Passive Mode (10,0,2,15,200,10).\r\n"
EPSV = b"229 Entering Extended Passive Mode (|||51210|)\r\n"
GUEST = bytes((10, 0, 2, 15))


class Port:
    def __init__(self, number: int) -> None:
        self.address = ("127.0.0.5", number)
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Owner:
    """Hands out ports 1025, 1026 ..."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.ports: list[Port] = []
        self.full = False

    def expect(self, control: Control, port: int) -> Port | None:
        if self.full:
            return None
        self.asked.append(port)
        self.ports.append(Port(1024 + len(self.asked)))
        return self.ports[-1]


class Slow(FakeClient):
    """Takes ``room`` bytes."""

    def __init__(self) -> None:
        super().__init__(("192.0.2.7", 40000), CHOSEN)
        self.room = 1 << 30

    def send(self, data: bytes | memoryview) -> int:
        taken = min(self.room, len(data))
        self.room -= taken
        self.sent += data[:taken]
        return taken


def control() -> tuple[Owner, Slow, Control]:
    owner, sock = Owner(), Slow()
    found = Control(owner, sock)
    found.guest = GUEST
    return owner, sock, found


@pytest.mark.parametrize(
    ("said", "heard", "asked"),
    [
        (PASV, b"227 Entering Passive Mode (127,0,0,5,4,1).\r\n", [51210]),
        (b"227 =10,0,2,15,0,21\r\n", b"227 =127,0,0,5,4,1\r\n", [21]),
        (EPSV, b"229 Entering Extended Passive Mode (|||1025|)\r\n", [51210]),
        (b"229 ok (!!!7!)\r\n", b"229 ok (!!!1025!)\r\n", [7]),
        (b"227 Passive (203,0,113,9,4,5)\r\n", b"227 Passive (203,0,113,9,4,5)\r\n", []),
        (b"227 Passive (10,0,2,15,0,0)\r\n", b"227 Passive (10,0,2,15,0,0)\r\n", []),
        (b"227 Passive (10,0,2,15,256,1)\r\n", b"227 Passive (10,0,2,15,256,1)\r\n", []),
        (b"229 ok (|||99999|)\r\n", b"229 ok (|||99999|)\r\n", []),
        (b"229 ok (|1||5|)\r\n", b"229 ok (|1||5|)\r\n", []),
        (b"220 " + PASV, b"220 " + PASV, []),
        (b"211-Features\r\n " + PASV + b"211 End\r\n", b"211-Features\r\n " + PASV + b"211 End\r\n", []),
        (b"234 go\r\n" + PASV, b"234 go\r\n" + PASV, []),
        (b"331 ok\r\n" + EPSV + b"150 go\r\n", b"331 ok\r\n" + EPSV.replace(b"51210", b"1025") + b"150 go\r\n", [51210]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("step", [1, 3, 1000])
def test_replies(said: bytes, heard: bytes, asked: list[int], step: int) -> None:
    owner, sock, found = control()
    for at in range(0, len(said), step):
        piece = said[at : at + step]
        assert found.send(piece) == len(piece)
    found.shutdown()
    assert (bytes(sock.sent), owner.asked, sock.shut) == (heard, asked, True)


@given(
    st.lists(
        st.sampled_from([b"2", b"22", b"227 ", b"229", b"(|||", b"x" * 300, b"\r\n", b"\n", b"1,"]),
        max_size=30,
    )
)
def test_what_is_no_reply_passes_as_it_is(words: list[bytes]) -> None:
    _, sock, found = control()
    for word in words:
        found.send(memoryview(word))
        assert len(found._held) < LINE
    found.close()
    assert bytes(sock.sent) == b"".join(words) and sock.closed


def test_a_prompt_is_not_held_back() -> None:
    _, sock, found = control()
    found.send(b"220 hello")
    assert bytes(sock.sent) == b"220 hello"


def test_a_host_that_is_full_gets_the_rest_later() -> None:
    _, sock, found = control()
    found.attach(sock)  # type: ignore[arg-type]
    sock.room = 5
    assert found.send(PASV) == len(PASV)
    assert sock.watched == (False, True)
    assert found.send(b"150 next\r\n") == 0, "nothing overtakes"
    found.shutdown()
    assert not sock.shut
    sock.room = 1 << 20
    found.host_writable(0)
    assert bytes(sock.sent) == b"227 Entering Passive Mode (127,0,0,5,4,1).\r\n"
    assert sock.shut and sock.watched == (False, False)


def test_ports_of_one_control_connection_are_few_and_end_with_it() -> None:
    owner, _, found = control()
    for _ in range(PER_CONTROL + 1):
        found.send(EPSV)
    assert [port.closed for port in owner.ports] == [True] + [False] * PER_CONTROL
    found.close(reset=True)
    assert all(port.closed for port in owner.ports)


def test_without_room_a_reply_stays_as_it_is() -> None:
    owner, sock, found = control()
    owner.full = True
    found.send(EPSV)
    assert bytes(sock.sent) == EPSV


# ---- with the stack ----------------------------------------------------------------------------------------


def session(net: Net, guest_port: int = 21) -> tuple[FakeClient, Segment]:
    """An FTP client that was told EPSV's port; its SYN to the guest."""
    net.stack.forwards.add(Rule("tcp", LISTEN, None, guest_port))
    client = FakeClient(("192.0.2.7", 40000), CHOSEN)
    net.host.listeners[LISTEN].call(net.now, client)
    (syn,) = segments(net)
    net.ask(tcp(syn.src, guest_port, syn.sport, 1000, syn.seq + 1, SYN | ACK))
    net.put(tcp(syn.src, guest_port, syn.sport, 1001, syn.seq + 1, ACK, EPSV))
    net.take()
    return client, syn


def data_port(net: Net) -> FakeListener:
    return net.host.listeners["127.0.0.5", 0]


def test_the_data_connection_of_the_client_reaches_the_guest_once() -> None:
    net = Net()
    client, _ = session(net)
    assert bytes(client.sent) == EPSV.replace(b"51210", b"0")  # the fake host binds port 0
    stranger, data = FakeClient(("192.0.2.8", 1)), FakeClient(("192.0.2.7", 40001))
    data_port(net).call(net.now, stranger, data)
    assert stranger.was_reset and net.count("ftp_stranger") == 1
    (syn,) = segments(net)
    assert (syn.src, syn.sport, syn.dst, syn.dport) == ("192.0.2.7", 40001, "10.0.2.15", 51210)
    assert data_port(net).closed and not net.stack.forwards._data


def test_a_port_that_nobody_comes_to_is_closed() -> None:
    net = Net()
    session(net)
    net.run(EXPECT / SECOND + 1)
    assert data_port(net).closed and net.count("ftp_expired") == 1


def test_the_end_of_the_control_connection_closes_the_port() -> None:
    net = Net()
    client, _syn = session(net)
    client.events.host_failed(104, net.now)
    net.stack.close(net.now)
    assert data_port(net).closed and not net.stack.forwards._data


@pytest.mark.parametrize(("config", "port"), [(Config(ftp="off"), 21), (Config(), 22)])
def test_only_port_21_and_only_if_it_is_on(config: Config, port: int) -> None:
    net = Net(config)
    client, _ = session(net, port)
    assert bytes(client.sent) == EPSV


def test_ports_are_bounded_over_all() -> None:
    net = Net()
    forwards = net.stack.forwards
    holder = Control(forwards, FakeClient(("192.0.2.7", 1), ("127.0.0.5", 2121)))
    holder.guest = GUEST
    made = []
    for number in range(EXPECTED + 1):
        holder.local = (f"127.0.{number >> 8}.{number & 255}", 2121)
        made.append(forwards.expect(holder, 5000))
    assert isinstance(made[0], DataPort) and made[-1] is None
    assert net.count("ftp_full") == 1
