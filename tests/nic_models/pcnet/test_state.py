"""Snapshots of a PCnet: in the middle of everything."""

import json

import pytest

from nic_models.pcnet import registers as r
from tests.nic_models.pcnet_kit import MAC, PEER, Bench, frame, started


def copy_of(bench: Bench) -> Bench:
    """A second bench with the first one's state, by way of JSON, and a copy of its RAM."""
    twin = Bench()
    twin.memory.cells[:] = bench.memory.cells
    twin.clock = bench.clock
    twin.style, twin.rx_count, twin.tx_count, twin.tx_at = (
        bench.style,
        bench.rx_count,
        bench.tx_count,
        bench.tx_at,
    )
    twin.function.restore(json.loads(json.dumps(bench.function.snapshot())))
    return twin


def settle(bench: Bench) -> None:
    bench.drive()
    bench.tick(20_000_000)


def same(one: Bench, two: Bench) -> None:
    assert one.card.snapshot() == two.card.snapshot()
    assert one.memory.cells == two.memory.cells
    assert one.irq == two.irq


def test_round_trip_at_rest():
    bench = started(3, rlen=3, mode=r.LOOP)
    bench.send(frame(70))
    bench.receive(frame(80))
    bench.bcr(2, r.APROMWE)
    bench.out(3, 0x77, 1)
    bench.card.set_link(False)
    twin = copy_of(bench)
    same(bench, twin)
    assert twin.card.aprom[3] == 0x77 and twin.bcr(4) == 0xC0


def work(bench: Bench) -> None:
    """Requests for everything at once, not driven."""
    data = frame(900, to=PEER, source=MAC)
    bench.queue(data[:300], data[300:500], data[500:])
    bench.queue(frame(61, to=PEER))
    assert bench.card.receive(frame(700, seed=9))
    bench.card.write(0, r.WIO_RAP, 2, 0)
    bench.card.write(0, r.RDP, 2, r.TDMD | r.IENA)


@pytest.mark.parametrize("style", [0, 2, 3])
def test_cut_at_every_operation(style):
    """A snapshot after any number of bus operations, done or not yet answered, ends like the uncut run."""
    whole = started(style, rlen=3, tlen=3, buffer=256)
    work(whole)
    settle(whole)
    assert [len(item) for item in whole.sent] == [900, 61]
    for cut in range(60):
        bench = started(style, rlen=3, tlen=3, buffer=256)
        work(bench)
        engine = bench.card.dma()
        try:
            op = next(engine)
            for _ in range(cut):
                answer = (
                    bench.memory.read(op[1], op[2]) if op[0] == "read" else bench.memory.write(op[1], op[2])
                )
                op = engine.send(answer)
        except StopIteration:
            break
        for done in (False, True):
            twin = copy_of(bench)
            if done and op[0] == "write":
                twin.memory.write(op[1], op[2])
            settle(twin)
            assert bench.sent + twin.sent == whole.sent
            assert twin.memory.cells == whole.memory.cells
            assert twin.csr(0) == whole.csr(0)
    else:
        raise AssertionError("the run was not over")


def test_waiting_frames_both_ways():
    bench = started(2, rlen=0)
    bench.accept = False
    bench.send(frame(60, to=PEER))
    bench.receive(frame(60))
    bench.receive(frame(61))
    assert not bench.receive(frame(62))
    twin = copy_of(bench)
    twin.open_wire()
    assert twin.sent == [frame(60, to=PEER)]
    twin.give(0)
    twin.tick(2_000_000)
    assert twin.mcnt(0) == 65 and twin.ready == 1


def test_interrupt_level_comes_back():
    bench = started(2)
    bench.receive(frame(60))
    assert bench.irq
    twin = Bench()
    twin.card.restore(json.loads(json.dumps(bench.card.snapshot())))
    assert twin.irq
    quiet = Bench()
    twin.card.restore(quiet.card.snapshot())
    assert not twin.irq


BROKEN = [
    {}, {"model": "ne2k_pci"}, {"csr": [0] * 127}, {"csr": [70000] * 128}, {"bcr": None}, {"rap": -1}, {"aprom": "x"},
    {"bcr": [9] * 64}, {"poll_at": "soon"}, {"rings": 3}, {"phy": {}}, {"counters": {"a": -1}}, {"blocked": 2},
]  # fmt: skip
BROKEN_RINGS = [
    {"posted": [[1]]}, {"posted": [[1, "00" * 17]]}, {"posted": [[1, "zz"]]}, {"posted": [[0, ""]] * 9},
    {"init": None}, {"event": -1}, {"rx": {}}, {"tx": []},
]  # fmt: skip


@pytest.mark.parametrize("change", [{"bmcr": None}, {"cable": 7}, {"deadline": -1}, {"more": 1}])
def test_not_a_snapshot_of_the_phy(change):
    bench = started(2)
    before = bench.card.snapshot()
    with pytest.raises(ValueError):
        bench.card.restore({**before, "phy": {**before["phy"], **change}})
    assert bench.card.snapshot() == before


@pytest.mark.parametrize("change", BROKEN)
def test_not_a_snapshot(change):
    bench = started(2)
    before = bench.card.snapshot()
    with pytest.raises(ValueError):
        bench.card.restore({**before, **change} if change else {})
    assert bench.card.snapshot() == before


@pytest.mark.parametrize("change", BROKEN_RINGS)
def test_not_a_snapshot_of_rings(change):
    bench = started(2)
    before = bench.card.snapshot()
    with pytest.raises(ValueError):
        bench.card.restore({**before, "rings": {**before["rings"], **change}})
    assert bench.card.snapshot() == before


@pytest.mark.parametrize(
    "change",
    [{"fifo": "!"}, {"last": [1, 2]}, {"last": [0, 0, 0, -1]}, {"hold_until": "x"}, {"done": 1 << 20}],
)
def test_not_a_snapshot_of_the_receiver(change):
    bench = started(2)
    before = bench.card.snapshot()
    rings = {**before["rings"], "rx": {**before["rings"]["rx"], **change}}
    with pytest.raises(ValueError):
        bench.card.restore({**before, "rings": rings})
