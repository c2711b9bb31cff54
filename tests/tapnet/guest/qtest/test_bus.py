"""The register bus on a socket: sessions, order, bounds, clients that come and go, standard input and output."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile

import pytest

from tapnet.config import Chardev, Endpoint, UnixPath
from tapnet.guest.qtest import bus as qtest
from tapnet.guest.qtest.bus import (
    LINGER_LINES,
    LINGER_LOOKS,
    LINGER_PAUSE,
    LINGER_PAUSE_MAX,
    Session,
    StdioChannel,
    open_qtest,
)
from tapnet.guest.qtest.wire import IRQ_MAX, LINE_MAX, OTHER, RUN_BYTES, TRANSFER_MAX
from tapnet.system import guard
from tests.tapnet.qtest_kit import IO, LOOPS, MAC, Client, Rig, play, rig, until

on_both_loops = pytest.mark.parametrize("loop", LOOPS)
PEER = bytes.fromhex("525400abcdef")
FRAME = MAC + PEER + b"\x88\xb5" + bytes(46)
# NE2000: stop, word mode, ring 0x46-0x80, PRX interrupts, start, accept broadcasts and our own
START = [
    *(0x00, 0x21), *(0x0E, 0x49), *(0x0C, 0x20), *(0x0D, 0x02), *(0x01, 0x46), *(0x02, 0x80), *(0x03, 0x46),
    *(0x07, 0xFF), *(0x0F, 0x01), *(0x00, 0x61), *(v for n in range(6) for v in (1 + n, MAC[n])), *(0x07, 0x46),
    *(0x00, 0x22), *(0x0D, 0x00), *(0x0C, 0x04),
]  # fmt: skip


def ne2000_start():
    return [f"outb {IO + offset:#x} {value:#x}" for offset, value in zip(START[::2], START[1::2])]


def ne2000_send(frame=PEER + MAC + FRAME[12:]):
    """Lines that send a frame, with the block extension."""
    page = [(8, 0), (9, 0x40), (10, len(frame)), (11, 0), (0, 0x12)]
    after = [(4, 0x40), (5, len(frame)), (6, 0), (0, 0x26)]
    return [
        *(f"outb {IO + offset:#x} {value:#x}" for offset, value in page),
        f"outsw {IO + 0x10:#x} {len(frame) // 2} 0x{frame.hex()}",
        *(f"outb {IO + offset:#x} {value:#x}" for offset, value in after),
    ]


@on_both_loops
def test_tx_delay_is_time_of_the_virtual_clock(loop):
    async def scene():
        async with rig() as (made, client):
            made.machine.slots[0].card.tx_delay = True
            await client.ask("clock_step 0", *ne2000_start(), *ne2000_send())
            isr = f"inb {IO + 7:#x}"
            early = (await client.ask("clock_step 67199", isr))[-1]
            assert made.heard == []
            late = (await client.ask("clock_step 1", isr))[-1]
            await until(lambda: made.heard)
            assert (int(late.split()[1], 16) & ~int(early.split()[1], 16)) == 0x02
            assert made.heard == [PEER + MAC + FRAME[12:]]

    play(loop, scene)


@on_both_loops
def test_thousands_of_lines_in_one_write_are_answered_in_order(loop):
    async def scene():
        async with rig() as (_, client):
            values = [n * 7 & 0xFFFFFFFF for n in range(3000)]
            lines = [line for v in values for line in (f"writel 0x1000 {v:#x}", "readl 0x1000")]
            answers = await client.ask(*lines)
            assert answers[::2] == ["OK"] * len(values)
            assert [int(answer[3:], 16) for answer in answers[1::2]] == values

    play(loop, scene)


@on_both_loops
def test_pci_and_the_card_answer(loop):
    async def scene():
        async with rig() as (_, client):
            await client.ask("outl 0xcf8 0x80001800")
            assert await client.ask("inl 0xcfc") == "OK 0x802910ec"
            await client.ask(*ne2000_start())
            await client.ask(f"inb {IO + 0x1F:#x}")
            assert await client.value(f"inb {IO + 7:#x}") & 0x80

    play(loop, scene)


@on_both_loops
def test_a_frame_raises_the_line_without_being_asked(loop):
    async def scene():
        async with rig() as (made, client):
            await client.ask(*ne2000_start())
            made.far.send(FRAME)
            assert await client.line() == "IRQ raise 11"
            assert await client.ask(f"outb {IO + 7:#x} 0xff") == "OK"
            assert client.messages == ["IRQ lower 11"]

    play(loop, scene)


@on_both_loops
def test_a_cards_own_pin(loop):
    async def scene():
        made = Rig()
        client = made.connect()
        try:
            await client.ask("irq_intercept_out card")
            await client.ask(
                "outl 0xcf8 0x80001810", f"outl 0xcfc {IO:#x}", "outl 0xcf8 0x80001804", "outl 0xcfc 7"
            )
            await client.ask(*ne2000_start())
            made.far.send(FRAME)
            assert await client.line() == "IRQ raise 0"  # without a route in the PIIX3
        finally:
            client.close()
            made.close()

    play(loop, scene)


@on_both_loops
def test_a_bus_master_writes_to_ram(loop):
    async def scene():
        async with rig("rtl8139") as (made, client):
            for offset, letter, value in (
                (0x30, "l", 0x10000),
                (0x37, "b", 0x0C),
                (0x44, "l", 0xE70F),
                (0x20, "l", 0x20000),
            ):
                await client.ask(f"out{letter} {IO + offset:#x} {value:#x}")
            await client.ask(f"write 0x20000 60 0x{(PEER + MAC + bytes(48)).hex()}")
            await client.ask(f"outl {IO + 0x10:#x} 60")
            await until(lambda: made.heard)
            assert made.heard == [PEER + MAC + bytes(48)]
            made.far.send(FRAME)
            assert await client.ask("settle") == "OK"
            assert (await client.ask("read 0x10004 60"))[5:] == FRAME.hex()

    play(loop, scene)


@on_both_loops
def test_the_next_client_finds_the_machine_as_it_was_left_and_nothing_else(loop):
    async def scene():
        async with rig() as (made, client):
            await client.ask(
                "writel 0x1000 0x12345678", "set_irq_in ioapic unnamed-gpio-in 5 1", "clock_step 100"
            )
            assert made.machine.irq_levels[5] and made.clock.virtual
            client.close()
            await until(lambda: made.ended)
            assert not made.machine.irq_levels[5] and not made.clock.virtual
            second = made.connect()
            assert await second.ask("readl 0x1000") == "OK 0x0000000012345678"
            await second.ask("set_irq_in ioapic unnamed-gpio-in 5 1")
            assert second.messages == []  # nothing is intercepted yet
            assert await second.ask("irq_intercept_out card") == "OK"
            second.close()
            await until(lambda: made.ended == 2)

    play(loop, scene)


@on_both_loops
@pytest.mark.parametrize("lines", [3, 5000])
def test_a_client_that_has_said_all_gets_all_answers(loop, lines):
    async def scene():
        async with rig() as (made, client):
            await client.send(b"inb 0x80\n" * lines + b"clock_step 5\nendianness\nhalf a line")
            client.socket.shutdown(socket.SHUT_WR)
            for _ in range(lines):
                assert await client.answer() == "OK 0x00ff"
            assert await client.answer() == "OK 5"
            assert await client.answer() == "OK little"
            assert await client.line() is None
            assert made.ended == 1

    play(loop, scene)


@on_both_loops
def test_a_client_that_reads_nothing_holds_up_itself_and_costs_a_bounded_buffer(loop):
    async def scene():
        async with rig() as (_, client):
            count, sent, most = 2000, 0, 0
            data = b"read 0x0 0x4000\n" * count
            while sent < len(data):
                try:
                    sent += client.socket.send(data[sent:])
                except BlockingIOError:
                    if client.session._unsent:
                        break
                most = max(most, len(client.session._unsent))
                await asyncio.sleep(0)
            for _ in range(100):
                await asyncio.sleep(0)
                most = max(most, len(client.session._unsent))
            assert client.session._unsent
            assert most <= RUN_BYTES + 2 * TRANSFER_MAX
            rest = asyncio.ensure_future(client.send(data[sent:]))
            for _ in range(count):
                assert len(await client.answer()) == 5 + 2 * 0x4000
            await rest
            assert await client.ask("endianness") == "OK little"

    play(loop, scene)


@on_both_loops
def test_lines_that_toggle_for_a_client_that_reads_nothing(loop):
    async def scene():
        async with rig() as (made, client):
            while not client.session._unsent:
                await client.send(b"read 0x0 0x40000\n")
                await asyncio.sleep(0)
            for n in range(4 * IRQ_MAX + 1):
                made.machine.set_line(7, "test", n % 2 == 0)
                await asyncio.sleep(0)
            last = asyncio.ensure_future(client.send(b"endianness\n"))
            while (await client.answer()) != "OK little":
                pass
            await last
            assert len(client.messages) <= IRQ_MAX + 2
            assert client.messages[-1] == "IRQ raise 7"

    play(loop, scene)


@on_both_loops
def test_a_client_that_dies_while_answers_wait(loop):
    async def scene():
        async with rig() as (made, client):
            while not client.session._unsent:
                await client.send(b"read 0x0 0x40000\n")
                await asyncio.sleep(0)
            client.close()
            await until(lambda: made.ended)
            assert made.bus.session is None

    play(loop, scene)


@on_both_loops
def test_a_line_without_end_ends_the_connection(loop):
    async def scene():
        async with rig() as (made, client):
            await client.send(b"inb 0x80\n")
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                for _ in range(4 * LINE_MAX // 65536):
                    await client.send(b"x" * 65536)
            assert await client.line() == "OK 0x00ff"
            assert (await client.line()).startswith("FAIL line longer than")
            assert made.ended == 1

    play(loop, scene)


def test_a_fault_of_ours_ends_that_client_and_is_reported():
    async def scene():
        async with rig() as (made, client):
            reports = []
            made.loop.set_exception_handler(lambda _loop, context: reports.append(context["exception"]))

            def broken(*_):
                raise ZeroDivisionError

            client.session._wire._cache[b"inb 0x80"] = (OTHER, broken, (), 0, 0)
            await client.send(b"inb 0x80\n")
            assert await client.line() is None
            assert [type(report) for report in reports] == [ZeroDivisionError]
            assert made.ended == 1

    play("asyncio", scene)


# ---- time --------------------------------------------------------------------------------------------------


@on_both_loops
@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_a_client_that_is_ended_has_an_end_and_no_reset(loop, kind):
    """Though lines that it has sent are still unread."""

    async def scene():
        async with rig() as (made, first):
            first.session.close()
            with tempfile.TemporaryDirectory() as folder:
                where = UnixPath(f"{folder}/bus") if kind == "unix" else Endpoint("127.0.0.1", 0)
                server = await open_qtest(
                    Chardev(origin="-qtest", address=where, server=True, wait=False), made.bus
                )
                listening = server.listening.socket
                with socket.socket(listening.family) as raw:
                    raw.setblocking(False)
                    await made.loop.sock_connect(raw, listening.getsockname())
                    client = Client(made.loop, raw)
                    assert await client.ask("endianness") == "OK little"
                    raw.send(b"inb 0x80\n" * 10_000)  # and the loop has no turn before the end
                    server.close()
                    while (line := await client.line()) is not None:
                        assert line == "OK 0x00ff"

    play(loop, scene)


@on_both_loops
def test_answers_of_others_are_there_after_a_step(loop):
    """A frame goes out, the far end answers, the card has it: by one clock_step, every time."""

    async def scene():
        async with rig(echo=True) as (made, client):
            await client.ask(*ne2000_start())
            for n in range(1, 60):
                answers = await client.ask(
                    *ne2000_send(), "clock_step 1", f"inb {IO + 7:#x}", f"outb {IO + 7:#x} 0xff"
                )
                assert answers[-3:-1] == [f"OK {n}", "OK 0x0043"]  # PRX, PTX, RDC
                # take it off the ring
                await client.ask(f"outb {IO:#x} 0x62")
                page = await client.value(f"inb {IO + 7:#x}")
                await client.ask(f"outb {IO:#x} 0x22", f"outb {IO + 3:#x} {page:#x}")
            assert len(made.heard) == 59

    play(loop, scene)


@on_both_loops
def test_settle_takes_no_time(loop):
    async def scene():
        async with rig(echo=True) as (made, client):
            await client.ask(*ne2000_start())
            made.real = 77
            answers = await client.ask(*ne2000_send(), "settle", f"inb {IO + 7:#x}")
            assert answers[-2:] == ["OK", "OK 0x0043"]
            assert not made.clock.virtual

    play(loop, scene)


@on_both_loops
def test_the_timer_of_a_card_by_the_virtual_clock(loop):
    """RTL8139: TimerInt 33,000 ticks of 30 ns."""

    async def scene():
        async with rig("rtl8139") as (_, client):
            now = await client.ask(f"outw {IO + 0x3C:#x} 0x4000", "clock_step 1")
            assert now[1] == "OK 1"
            await client.ask(f"outl {IO + 0x54:#x} 33000", f"outl {IO + 0x48:#x} 0")
            assert await client.ask("clock_step 989999") == "OK 990000"
            assert client.messages == []
            assert await client.ask("clock_step") == "OK 990001"
            assert client.messages == ["IRQ raise 11"]
            assert await client.value(f"inw {IO + 0x3E:#x}") & 0x4000

    play(loop, scene)


@on_both_loops
def test_real_time_runs_timers_without_steps(loop):
    async def scene():
        async with rig("rtl8139") as (made, client):
            await client.ask(
                f"outw {IO + 0x3C:#x} 0x4000", f"outl {IO + 0x54:#x} 33000", f"outl {IO + 0x48:#x} 0"
            )
            made.real = 2_000_000
            assert await client.line() == "IRQ raise 11"

    play(loop, scene)


@on_both_loops
def test_answers_of_the_clock(loop):
    async def scene():
        async with rig() as (made, client):
            made.real = 50
            assert await client.ask("clock_step 0") == "FAIL could not advance time"
            made.real = 1000
            assert (await client.ask("clock_step")).startswith(
                "FAIL cannot advance clock to the next deadline"
            )
            assert await client.ask("clock_step 10") == "OK 60"
            assert await client.ask("clock_step -10") == "FAIL could not advance time"
            assert await client.ask("clock_set 60") == "OK 60"
            assert await client.ask("clock_set 59") == "FAIL 60"
            assert await client.ask("clock_set 0x7fffffffffffffff") == "OK 9223372036854775807"

    play(loop, scene)


# ---- standard input and output -----------------------------------------------------------------------------


def stdio_scene(source, sink, lines, collect):
    async def scene():
        made = Rig()
        try:
            Session(made.bus, StdioChannel(source, sink), made.gone)
            text = await collect(made)
            await until(lambda: made.ended)
            assert text == b"OK 0x00ff\n" * lines
        finally:
            made.close()

    return scene


@on_both_loops
def test_stdio_files(loop):
    """A script as input, a file for the answers: neither can be waited for."""
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as sink:
        source.write(b"inb 0x80\n" * 20_000)
        source.seek(0)
        sink.write(b"before\n")
        sink.flush()

        async def collect(made):
            await until(lambda: made.ended)
            sink.seek(0)
            assert sink.readline() == b"before\n"
            return sink.read()

        play(loop, stdio_scene(source.fileno(), sink.fileno(), 20_000, collect))


@on_both_loops
@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_stdio_pipes_and_sockets(loop, kind):
    if kind == "pipe":
        source, feed = os.pipe()
        drain, sink = os.pipe()
    else:
        source, feed = (one.detach() for one in socket.socketpair())
        drain, sink = (one.detach() for one in socket.socketpair())
    lines = 20_000  # more than a pipe holds

    async def collect(made):
        running = asyncio.get_running_loop()

        def push():
            with open(feed, "wb") as out:
                out.write(b"inb 0x80\n" * lines)

        def pull():
            with open(drain, "rb") as into:
                return into.read(10 * lines)

        push_done = running.run_in_executor(None, push)
        text = await running.run_in_executor(None, pull)
        await push_done
        if kind == "pipe":  # a shell's descriptors are left as they are
            assert os.get_blocking(sink) and os.get_blocking(source)
        return text

    try:
        play(loop, stdio_scene(source, sink, lines, collect))
    finally:
        os.close(source)
        os.close(sink)


# ---- the server --------------------------------------------------------------------------------------------


def unix(path, **options):
    return Chardev(origin="-qtest", address=UnixPath(str(path)), **options)


async def dial(path):
    connected = socket.socket(socket.AF_UNIX)
    connected.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connected, path if isinstance(path, str) else str(path))
    return Client(loop, connected)


@on_both_loops
def test_one_client_at_a_time(loop, tmp_path):
    async def scene():
        made = Rig()
        server = await open_qtest(unix(tmp_path / "bus", server=True), made.bus)
        try:
            first = await dial(tmp_path / "bus")
            assert await first.ask("endianness") == "OK little"
            await asyncio.wait_for(server.first_client(), 5)
            second = await dial(tmp_path / "bus")
            await second.send(b"endianness\n")
            assert await first.ask("endianness") == "OK little"
            assert second._text == b""
            with pytest.raises(BlockingIOError):
                second.socket.recv(1)
            first.close()
            assert await second.line() == "OK little"
            second.close()
        finally:
            server.close()
            made.close()
        assert list(tmp_path.iterdir()) == []

    play(loop, scene)


@on_both_loops
def test_connecting(loop, tmp_path):
    async def scene():
        made = Rig()
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(tmp_path / "bench"))
        listening.listen()
        listening.setblocking(False)
        server = await open_qtest(unix(tmp_path / "bench"), made.bus)
        try:
            accepted, _ = await made.loop.sock_accept(listening)
            client = Client(made.loop, accepted)
            assert await client.ask("endianness") == "OK little"
            client.close()
            await until(lambda: made.bus.session is None)
        finally:
            server.close()
            listening.close()
            made.close()

    play(loop, scene)


@on_both_loops
def test_a_tcp_port_is_marked_for_the_nat(loop):
    async def scene():
        made = Rig()
        server = await open_qtest(
            Chardev(origin="-qtest", address=Endpoint("127.0.0.1", 0), server=True), made.bus
        )
        try:
            port = server.listening.port
            assert guard.claimed(port)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"endianness\n")
            assert await asyncio.wait_for(reader.readline(), 5) == b"OK little\n"
            writer.close()
        finally:
            server.close()
            made.close()
        assert not guard.claimed(port)

    play(loop, scene)


def test_no_descriptors_left_is_survived(tmp_path, monkeypatch):
    monkeypatch.setattr(qtest, "RETRY_S", 0.01)

    class Full:
        def __init__(self, listening):
            self.listening = listening
            self.failures = 2

        def accept(self):
            if self.failures:
                self.failures -= 1
                raise OSError(24, "Too many open files")
            return self.listening.accept()

        def __getattr__(self, name):
            return getattr(self.listening, name)

    async def scene():
        made = Rig()
        server = await open_qtest(unix(tmp_path / "bus", server=True), made.bus)
        try:
            server.listening.socket = Full(server.listening.socket)
            client = await dial(tmp_path / "bus")
            assert await client.ask("endianness") == "OK little"
            assert server.listening.socket.failures == 0
            client.close()
        finally:
            server.close()
            made.close()

    play("asyncio", scene)


class Quick:
    """A channel whose client has ``ready`` lines at once, then one more whenever ``tick`` is called."""

    def __init__(self):
        self.sink, self.source = socket.socketpair()
        self.lines, self.looks, self.answers = 0, 0, 0
        self.sink = self.sink.detach()
        self.source = self.source.detach()

    def recv(self):
        self.looks += 1
        if not self.lines:
            raise BlockingIOError
        self.lines -= 1
        return b"inb 0xc007\n"

    def send(self, data):
        self.answers += 1
        return len(data)

    def close(self):
        if self.source >= 0:
            os.close(self.source)
            os.close(self.sink)
            self.source = self.sink = -1


def test_a_quick_client_is_waited_for_a_slow_one_less_and_less():
    async def scene():
        made = Rig()
        channel = Quick()
        session = Session(made.bus, channel, made.gone)
        channel.lines = 2  # the first two are learnt from
        for _ in range(2):
            session._readable()
        channel.lines = 1000
        session._readable()
        assert channel.answers == 2 + 1 + LINGER_LINES  # then the loop has its turn
        channel.lines = 0
        bursts = []  # lines between two times that a slow client was waited for
        since = 0
        for _ in range(4 * LINGER_PAUSE_MAX):
            channel.lines, channel.looks = 1, 0
            session._readable()
            since += 1
            if channel.looks > 1:
                assert channel.looks == 1 + LINGER_LOOKS
                bursts.append(since)
                since = 0
        assert bursts[1:4] == [2 * LINGER_PAUSE + 1, 4 * LINGER_PAUSE + 1, 8 * LINGER_PAUSE + 1]
        assert max(bursts) == LINGER_PAUSE_MAX + 1
        channel.lines = 1 << 20
        while channel.lines > 1:
            before = channel.answers
            session._readable()
            if channel.answers - before > 1:  # quick again: waited for again
                break
        channel.lines = 1
        session._readable()
        assert channel.looks > 1
        made.close()
        session.close()

    play("asyncio", scene)
