"""Random rings and traffic: the engine against a slow twin."""

from hypothesis import given, settings
from hypothesis import strategies as st

from nic_models.pcnet import registers as r
from tests.nic_models.pcnet_kit import (
    BROADCAST,
    ENP,
    MAC,
    OWN,
    PEER,
    RX_BUFFERS,
    RX_RING,
    STP,
    TX_BUFFERS,
    TX_RING,
    Bench,
    frame,
)
from tests.nic_models.pcnet_slow import Slow

SIZES = st.sampled_from((0, 1, 14, 59, 60, 61, 255, 256, 1514)) | st.integers(0, 1600)
SEND = st.tuples(
    st.just("send"), st.lists(SIZES, min_size=1, max_size=5), st.sampled_from(("whole", "no end", "no start"))
)
RECEIVE = st.tuples(
    st.just("receive"), st.integers(14, 1600) | st.integers(300, 400), st.sampled_from((MAC, BROADCAST))
)
GIVE = st.tuples(st.just("give"), st.integers(1, 6), st.sampled_from((1, 4, 64, 128, 600, 1536, 4096)))
ACTIONS = st.lists(SEND | RECEIVE | GIVE, min_size=1, max_size=30)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from((0, 1, 2, 3)), st.integers(0, 3), st.integers(0, 3), ACTIONS)
def test_engine_is_its_slow_twin(style, rlen, tlen, actions):
    bench = Bench()
    bench.setup(style, rlen=rlen, tlen=tlen)
    bench.csr(0, r.IDON | r.IENA)
    slow = Slow(bytearray(bench.memory.cells), style, RX_RING, TX_RING, bench.rx_count, bench.tx_count, MAC)
    give_at = 0
    waiting: list[bytes] = []
    for action in actions:
        if action[0] == "send":
            _, pieces, how = action
            pieces = pieces[: bench.tx_count]
            data = frame(max(14, sum(pieces)), to=PEER, source=MAC, seed=len(pieces))
            at = bench.tx_at
            done = 0
            for number, size in enumerate(pieces):
                where = TX_BUFFERS + at * 0x1000
                if number == 0:
                    size = max(size, 14)
                bench.memory.cells[where : where + size] = data[done : done + size].ljust(size, b"\0")
                done += size
                word = OWN | (STP if number == 0 and how != "no start" else 0)
                word |= ENP if number == len(pieces) - 1 and how != "no end" else 0
                bench.write_descriptor(bench.tx_address(at), where, word, size, 0)
                at = (at + 1) % bench.tx_count
            bench.tx_at = at
            slow.cells[TX_RING : TX_RING + 256] = bench.memory.cells[TX_RING : TX_RING + 256]
            slow.cells[TX_BUFFERS:] = bench.memory.cells[TX_BUFFERS:]
            before = len(bench.sent)
            bench.demand()
            assert bench.sent[before:] == slow.demand()
            assert bool(bench.csr(0) & r.TXON) is slow.tx_on
            if not slow.tx_on:  # start anew, as a driver does
                bench.csr(0, r.STOP)
                assert not bench.irq
                bench.csr(0, r.STRT | r.IENA)
                slow.tx_on, slow.tint, slow.rint = True, False, False
                waiting.clear()
                slow.tx_at = slow.rx_at = give_at = 0  # STRT after STOP: at the bases
                for index in range(bench.tx_count):
                    bench.write_descriptor(bench.tx_address(index), 0, 0, 0, 0)
                slow.cells[TX_RING : TX_RING + 256] = bench.memory.cells[TX_RING : TX_RING + 256]
            bench.tx_at = slow.tx_at  # where both are now
        elif action[0] == "receive":
            _, size, to = action
            data = frame(size, to=to)
            taken = bench.receive(data)
            assert taken is (not waiting)
            if taken and not slow.receive(data):
                waiting.append(data)
        else:
            _, count, size = action
            for _ in range(count):
                bench.give(give_at, size)
                slow.cells[RX_RING : RX_RING + 256] = bench.memory.cells[RX_RING : RX_RING + 256]
                give_at = (give_at + 1) % bench.rx_count
            bench.csr(0, r.IENA)
            while waiting and slow.receive(waiting[0]):
                waiting.pop()
        assert bench.memory.cells == slow.cells
        csr0 = bench.csr(0)
        assert bool(csr0 & r.TINT) is slow.tint
        assert bool(csr0 & r.RINT) is slow.rint
        assert not csr0 & r.MISS
        assert bench.irq is bool(slow.tint or slow.rint)
        assert bench.card.rings.rx.index == slow.rx_at
        assert bench.card.rings.tx.index == slow.tx_at
    assert RX_BUFFERS < TX_BUFFERS
