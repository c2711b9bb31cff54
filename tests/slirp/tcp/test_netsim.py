"""TCP on a simulated network: every byte arrives once and in order, whatever the wire does."""

from __future__ import annotations

import random

import pytest

from tests.slirp.netsim import MS, SECOND, FakeSocket, Net


def transfer(net: Net, up: int, down: int, seed: int) -> None:
    """Both directions at once, then both half-closes, then nothing is left."""
    rng = random.Random(seed)
    said, heard = rng.randbytes(up), rng.randbytes(down)
    guest = net.guest
    net.host.ready = lambda sock: (sock.say(heard), sock.end())
    guest.data = said
    guest.closing = True
    guest.connect()

    def sock() -> FakeSocket:
        return net.host.sockets[0]

    done = net.run(lambda: guest.ended and guest.fin_acked and sock().closed)
    assert not guest.reset
    assert bytes(guest.received) == heard
    assert bytes(sock().received) == said
    assert done
    assert len(net.host.sockets) == 1
    net.run(lambda: len(net.tcp) == 0)
    assert len(net.tcp) == 0
    assert sock().closed and not sock().was_reset
    assert net.buffers.used == 0
    assert net.tcp.next_deadline() is None


LOSS = [0.0, 0.01, 0.1]
WIRES = {
    "still": {},
    "slow": {"delay": 30 * MS},
    "jitter": {"delay": MS, "jitter": 10 * MS},
    "double": {"delay": MS, "jitter": MS, "duplicate": 0.2},
    "corrupt": {"delay": MS, "corrupt": 0.02},
}
GUESTS = {
    "sack": {},
    "plain": {"sack": False, "scale": -1},
    "tiny window": {"buffer": 3000, "drain": 400, "scale": -1},
    "small window, no sack": {"buffer": 16384, "drain": 3000, "sack": False},
    "wrap": {"isn": 0xFFFFF000, "buffer": 1 << 20},
    "small mss": {"mss": 300},
    "super-frames": {"big": True, "buffer": 1 << 20},
}


@pytest.mark.parametrize("guest", GUESTS)
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("loss", LOSS)
def test_integrity(loss: float, wire: str, guest: str) -> None:
    features = 7 if guest == "super-frames" else 0
    seed = hash((loss, len(wire), len(guest))) & 0xFFFF
    net = Net(seed, loss=loss, features=features, **WIRES[wire], **GUESTS[guest])
    transfer(net, 60_000, 60_000, seed)


def test_a_slow_host_that_has_ended_gets_all() -> None:
    """Both sides have said their FIN and the guest has its ACK, while the host's buffer is still full."""
    net = Net(12, delay=MS)
    net.host.send_buffer = 8192
    net.host.drain_rate = 100
    transfer(net, 60_000, 1000, 12)


BATCHES = [1, 50_000, 2 * MS]


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("guest", GUESTS)
@pytest.mark.parametrize("wire", ["still", "jitter", "double"])
@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_integrity_in_batches(loss: float, wire: str, guest: str, batch: int) -> None:
    features = 7 if guest == "super-frames" else 0
    seed = hash((loss, len(wire), len(guest), batch)) & 0xFFFF
    net = Net(seed, loss=loss, features=features, batch=batch, **WIRES[wire], **GUESTS[guest])
    transfer(net, 60_000, 60_000, seed)


def test_a_batch_is_one_call_and_one_ack() -> None:
    """The first segment goes to the host at once, the others together."""
    net = Net(11, delay=MS, batch=1, window_cap=1 << 16)
    calls: list[int] = []
    net.guest.data = bytes(100_000)
    net.guest.connect()
    assert net.run(
        lambda: bool(net.host.sockets and net.guest.received is not None and net.host.sockets[0].received)
    )
    sock = net.host.sockets[0]
    send = sock.send
    sock.send = lambda data: (calls.append(len(data)), send(data))[1]  # type: ignore[method-assign]
    acks = net.down.sent
    assert net.run(lambda: len(sock.received) == 100_000)
    assert max(calls) > 5 * 1460
    assert net.down.sent - acks < 100_000 // 1460 // 2, "fewer than one ACK for two segments"


@pytest.mark.parametrize("batch", [0, *BATCHES])
@pytest.mark.parametrize("loss", LOSS)
def test_slow_host(loss: float, batch: int) -> None:
    """The host's back-pressure closes the guest's window, and opens it again."""
    net = Net(5, loss=loss, delay=MS, batch=batch)
    net.host.send_buffer = 8192
    net.host.drain_rate = 2000
    transfer(net, 600_000, 1000, 5)


@pytest.mark.parametrize("batch", [0, 50_000])
@pytest.mark.parametrize("room", [1, 2, 16])
def test_full_wire(room: int, batch: int) -> None:
    """The link refuses frames and takes them again later: nothing is lost."""
    net = Net(6, room=room, delay=MS, batch=batch)
    transfer(net, 100_000, 300_000, 6)
    assert net.down.lost == 0


@pytest.mark.parametrize("loss", LOSS)
@pytest.mark.parametrize("features", [0, 7])
def test_ipv6(loss: float, features: int) -> None:
    """The same TCP, other headers."""
    here, there = bytes.fromhex("fec0" + "0" * 27 + "f"), bytes.fromhex("20010db8" + "0" * 23 + "7")
    net = Net(10, loss=loss, delay=MS, features=features, src=here, dst=there, mss=1440)
    transfer(net, 60_000, 60_000, 10)


def test_host_in_small_pieces() -> None:
    net = Net(7, loss=0.02, delay=MS)
    net.host.recv_max = 100
    transfer(net, 1000, 100_000, 7)


def test_sequence_numbers_wrap_in_both_directions() -> None:
    net = Net(8, loss=0.02, delay=MS, isn=0xFFFFFF00)
    net.tcp.rng.getrandbits = lambda bits: 0xFFFFFFF0  # type: ignore[method-assign]
    transfer(net, 200_000, 200_000, 8)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("guest", GUESTS)
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("loss", [0.0, 0.02, 0.1, 0.2])
def test_integrity_long(loss: float, wire: str, guest: str, seed: int) -> None:
    features = seed % 3 * 3 + (seed & 1) if guest == "super-frames" else 0
    net = Net(seed, loss=loss, features=features, **WIRES[wire], **GUESTS[guest])
    transfer(net, 150_000, 150_000, seed)


@pytest.mark.parametrize("batch", [0, 50_000])
def test_throughput_on_a_clean_wire_is_not_timer_bound(batch: int) -> None:
    """Two megabytes each way at 1 ms take far less than one RTO per window."""
    net = Net(9, delay=MS // 2, buffer=1 << 20, features=7, window_cap=600, batch=batch)
    transfer_start = net.sim.now
    net.host.ready = lambda sock: sock.say(bytes(2_000_000))
    net.guest.data = bytes(2_000_000)
    net.guest.connect()
    assert net.run(
        lambda: (
            len(net.guest.received) == 2_000_000 and len(net.host.sockets[0].received) == 2_000_000
            if net.host.sockets
            else False
        ),
        5 * SECOND,
    )
    assert net.sim.now - transfer_start < 100 * MS
    assert net.tcp.counters["retransmits"] == 0
