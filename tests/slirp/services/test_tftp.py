"""The TFTP server on a virtual clock, with files in memory: what goes over the wire, message by message."""

from __future__ import annotations

import errno
from struct import Struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slirp.config import Config
from slirp.services import tftp, tftp_session
from slirp.services.tftp_session import LINGER, READ, TRIES
from slirp.wire.tftp import FromNetascii, Refusal, name_parts, parse_request, to_netascii
from tests.slirp.fakes import SECOND, Net, arp, udp

RRQ, WRQ, DATA, ACK, ERROR, OACK = range(1, 7)
HEAD = Struct("!HH")
ROOT = "/srv/tftp"


def ask(name: bytes, mode: bytes = b"octet", opcode: int = RRQ, **options: object) -> bytes:
    pairs = b"".join(f"{key}\0{value}\0".encode() for key, value in options.items())
    return opcode.to_bytes(2, "big") + name + b"\0" + mode + b"\0" + pairs


class Bench:
    """A stack that serves ``files``; ``put`` answers with the server's messages as (port, opcode, number, rest)."""

    def __init__(self, write: bool = False, mtu: int = 1500, **files: bytes) -> None:
        self.net = Net(Config(tftp=ROOT, tftp_write=write, mtu=mtu))
        self.files = self.net.host.files.files
        self.files.update({name.replace("__", "/"): data for name, data in files.items()})
        self.tid = 0

    def put(
        self, message: bytes, port: int | None = None, sport: int = 2000, src: str = "10.0.2.15"
    ) -> list[bytes]:
        self.net.put(udp("10.0.2.2", port or self.tid or 69, message, sport=sport, src=src))
        return self.take()

    def take(self) -> list[bytes]:
        self.net.host.files.work(self.net.now)
        answers = [ip for ip in self.net.ips() if ip.protocol == 17]
        if answers:
            self.tid = answers[-1].ports[0] if answers[-1].ports[0] != 69 else 0
        return [ip.payload for ip in answers]

    def begin(self, message: bytes, sport: int = 2000, src: str = "10.0.2.15") -> list[bytes]:
        return self.put(message, 69, sport, src)

    def run(self, seconds: float) -> list[bytes]:
        self.net.run(seconds)
        return self.take()

    def ack(self, number: int) -> list[bytes]:
        return self.put(HEAD.pack(ACK, number & 0xFFFF))

    def data(self, number: int, payload: bytes) -> list[bytes]:
        return self.put(HEAD.pack(DATA, number & 0xFFFF) + payload)

    def fetch(self, message: bytes, window: int = 1) -> bytes:
        """A whole transfer by a client that loses nothing."""
        got = bytearray()
        expected = 1
        answers = self.begin(message)
        size = 512
        if answers[0][:2] == b"\0\6":
            words = answers[0][2:-1].split(b"\0")
            size = int(dict(zip(words[::2], words[1::2], strict=True)).get(b"blksize", b"512"))
            answers = self.ack(0)
        while True:
            assert answers, "the server stopped"
            for answer in answers:
                assert HEAD.unpack_from(answer) == (DATA, expected & 0xFFFF)
                got += answer[4:]
                expected += 1
            if len(answers[-1]) - 4 < size:
                assert self.ack(expected - 1) == []
                return bytes(got)
            answers = self.ack(expected - 1)


def head(message: bytes) -> tuple[int, int]:
    found = HEAD.unpack_from(message)
    return found[0], found[1]


# ---- reading -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1024, 5000, READ, READ + 1, 2 * READ + 512])
def test_files_of_all_sizes(size: int) -> None:
    content = bytes(n * 7 & 0xFF for n in range(size))
    assert Bench(f=content).fetch(ask(b"f")) == content


@pytest.mark.parametrize("options", [{"blksize": 8}, {"blksize": 1428, "windowsize": 4}, {"windowsize": 64}, {"blksize": 65464}])  # fmt: skip
def test_options_of_size(options: dict[str, int]) -> None:
    bench = Bench(f=bytes(70001))
    bench.net.stack.ipv4.mtu = 65520  # so that one frame is one block here
    assert bench.fetch(ask(b"f", **options)) == bytes(70001)


def test_block_numbers_roll_over() -> None:
    content = bytes(8 * 65536 + 21)
    bench = Bench(f=content)
    assert bench.fetch(ask(b"f", blksize=8, windowsize=128)) == content
    assert bench.net.count("tftp_sent") == 1


def test_a_transfer_has_a_port_of_its_own() -> None:
    bench = Bench(f=b"x")
    bench.begin(ask(b"f"))
    first = bench.tid
    bench.begin(ask(b"f"), sport=2001)
    assert 49152 <= first <= 65535 and first != bench.tid != 69


def test_options_are_acknowledged_and_what_makes_no_sense_is_left_out() -> None:
    bench = Bench(f=bytes(1000))
    request = ask(b"f", BlkSize=1024, tsize=0, timeout=3, windowsize=2, multicast=1, rollover=0)
    assert bench.begin(request) == [b"\0\6blksize\0001024\0timeout\0003\0tsize\0001000\0windowsize\0002\0"]
    assert [head(m) for m in bench.ack(0)] == [(DATA, 1)]
    for odd in ({"blksize": 7}, {"blksize": "x"}, {"timeout": 0}, {"timeout": 256}, {"windowsize": 0}):
        assert [head(m) for m in Bench(f=b"x").begin(ask(b"f", **odd))] == [(DATA, 1)]


def test_a_block_size_beyond_the_greatest_is_cut() -> None:
    assert Bench(f=b"x").begin(ask(b"f", blksize=99999)) == [b"\0\6blksize\00065464\0"]


def test_a_window_fits_the_queue_to_the_guest() -> None:
    assert Bench(f=b"x").begin(ask(b"f", blksize=65464, windowsize=64)) == [
        b"\0\6blksize\00065464\0windowsize\0002\0"
    ]


def test_netascii_both_ways_of_line_end_and_no_size() -> None:
    bench = Bench(f=b"a\nb\rc")
    assert bench.begin(ask(b"f", b"NetASCII", tsize=0)) == [HEAD.pack(DATA, 1) + b"a\r\nb\r\0c"]


def test_a_duplicate_ack_does_not_double_a_block() -> None:
    bench = Bench(f=bytes(5000))
    bench.begin(ask(b"f"))
    assert [head(m) for m in bench.ack(1)] == [(DATA, 2)]
    assert bench.ack(1) == []
    assert bench.ack(1) == []
    assert [head(m) for m in bench.ack(2)] == [(DATA, 3)]
    assert bench.ack(7) == [], "not sent yet"
    assert bench.net.count("tftp_duplicate") == 2


def test_in_a_window_the_first_lost_block_is_told_once() -> None:
    bench = Bench(f=bytes(9000))
    bench.begin(ask(b"f", windowsize=4))
    assert [head(m)[1] for m in bench.ack(0)] == [1, 2, 3, 4]
    assert [head(m)[1] for m in bench.ack(0)] == [1, 2, 3, 4]
    assert bench.ack(0) == []
    assert [head(m)[1] for m in bench.ack(2)] == [3, 4, 5, 6], "behind the gap"
    assert [head(m)[1] for m in bench.ack(6)] == [7, 8, 9, 10]


def test_lost_messages_are_sent_again_with_back_off_and_given_up() -> None:
    bench = Bench(f=bytes(5000))
    bench.begin(ask(b"f"))
    times = []
    for _ in range(700):
        for message in bench.run(0.1):
            times.append((round((bench.net.now - SECOND) / SECOND), head(message)[0]))
    assert times == [(1, DATA), (3, DATA), (7, DATA), (15, DATA), (23, DATA), (31, ERROR)]
    assert len(times) == TRIES
    assert not bench.net.stack.tftp.sessions  # type: ignore[union-attr]
    assert all(file.closed for file in bench.net.host.files.opened)


def test_the_option_timeout_is_the_first_time_out() -> None:
    bench = Bench(f=bytes(5000))
    bench.begin(ask(b"f", timeout=20))
    assert bench.run(19) == []
    assert len(bench.run(2)) == 1
    assert len(bench.run(20)) == 1, "it is not shortened by the back-off's limit"


def test_progress_starts_the_time_out_afresh() -> None:
    bench = Bench(f=bytes(5000))
    bench.begin(ask(b"f"))
    bench.run(2)
    bench.ack(1)
    assert bench.run(0.9) == []
    assert [head(m) for m in bench.run(0.2)] == [(DATA, 2)]


def test_a_request_that_comes_again_is_one_transfer() -> None:
    bench = Bench(f=bytes(5000))
    (first,) = bench.begin(ask(b"f"))
    port = bench.tid
    assert bench.begin(ask(b"f")) == [first]
    assert bench.tid == port and len(bench.net.stack.tftp) == 1  # type: ignore[arg-type]


def test_firmware_asks_for_the_size_gives_up_and_asks_anew_from_the_same_port() -> None:
    bench = Bench(f=bytes(5000))
    assert bench.begin(ask(b"f", tsize=0)) == [b"\0\6tsize\0005000\0"]
    bench.put(HEAD.pack(ERROR, 0) + b"User aborted the transfer\0")
    assert bench.begin(ask(b"f", blksize=1456)) == [b"\0\6blksize\0001456\0"]
    assert [head(m) for m in bench.ack(0)] == [(DATA, 1)]


def test_another_request_from_the_same_port_replaces_the_transfer() -> None:
    bench = Bench(f=bytes(5000), g=b"g")
    bench.begin(ask(b"f"))
    assert bench.begin(ask(b"g")) == [HEAD.pack(DATA, 1) + b"g"]
    assert bench.net.host.files.opened[0].closed


def test_a_finished_transfer_lingers_in_silence_and_goes() -> None:
    bench = Bench(f=b"x")
    bench.begin(ask(b"f"))
    bench.ack(1)
    assert bench.ack(1) == []
    assert not bench.net.host.udps, "stragglers do not reach the host's loopback"
    bench.run(LINGER / SECOND + 1)
    assert not bench.net.stack.tftp.sessions  # type: ignore[union-attr]


def test_a_stranger_gets_error_5_and_disturbs_nothing() -> None:
    bench = Bench(f=bytes(5000))
    bench.begin(ask(b"f"))
    tid = bench.tid
    (answer,) = bench.put(HEAD.pack(ACK, 1), tid, sport=2001)
    assert head(answer) == (ERROR, 5)
    assert bench.put(HEAD.pack(ERROR, 5) + b"\0", tid, sport=2001) == [], "an error is never answered"
    assert [head(m) for m in bench.put(HEAD.pack(ACK, 1), tid)] == [(DATA, 2)]


def test_another_guest_is_a_stranger_too() -> None:
    bench = Bench(f=bytes(5000))
    bench.begin(ask(b"f"))
    bench.net.put(arp(1, "10.0.2.16", "10.0.2.2", sha=b"\x52\x54\0\0\0\1"))
    bench.net.take()
    (answer,) = bench.put(HEAD.pack(ACK, 1), src="10.0.2.16")
    assert head(answer) == (ERROR, 5)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (ask(b"missing"), 1),
        (ask(b""), 1),
        (ask(b"x" * 600), 1),
        (ask(b"../f"), 2),
        (ask(b"a/../f"), 2),
        (ask(b"f/.."), 2),
        (ask(b"f/"), 2),
        (ask(b"/"), 2),
        (ask(b"."), 2),
        (ask(b"/srv/tftp/../f"), 2),
        (ask(b"/etc/passwd"), 1),
        (ask(b"f", b"mail"), 4),
        (ask(b"f", opcode=WRQ), 2),
        (b"\0\1f", 4),
        (b"\0\1f\0octet", 4),
        (b"\0\3\0\1data", 4),
        (b"\0\4\0\1", 4),
        (b"\0\7", 4),
        (b"\0", 4),
        (b"", 4),
        (ask(b"f") + bytes(3000), 4),
    ],
)  # fmt: skip
def test_refusals(request_: bytes, code: int) -> None:
    (answer,) = Bench(f=b"x").begin(request_)
    assert head(answer) == (ERROR, code)
    assert answer.endswith(b"\0") and len(answer) > 5


@pytest.mark.parametrize(
    "name",
    [
        *(b"a/f", b"/a/f", b"./a//f", b"/srv/tftp/a/f", b"/srv/tftp//a/f", b"//srv/./tftp/a/f"),
        *(
            rb"a\f",
            rb"\a\f",
            rb"\a/f",
            rb"/a\\f",
            rb".\a\f",
            rb"\srv\tftp\a\f",
            rb"/srv/tftp\a\f",
            rb"\\srv/tftp\a/f",
        ),
        *(rb"C:\a\f", b"c:/a/f", rb"C:\srv\tftp\a\f", rb"Z:/srv\tftp/a\f"),
    ],
)
def test_names_of_one_file(name: bytes) -> None:
    assert Bench(a__f=b"x").fetch(ask(name)) == b"x"


@given(st.binary(max_size=80))
@example(rb"..\f")
@example(rb"a\..\..\f")
@example(rb"C:\..\f")
@example(rb"C:..\f")
def test_no_name_leads_out(name: bytes) -> None:
    try:
        parts = name_parts(name.replace(b"\0", b"/"), (b"/srv/tftp", b"/"))
    except Refusal:
        return
    assert parts and not {b"", b".", b".."} & set(parts)
    assert not any(b"/" in part or b"\\" in part for part in parts)


@given(st.binary(max_size=60))
def test_any_request_is_parsed_or_refused(data: bytes) -> None:
    try:
        found = parse_request(b"\0\1" + data)
    except Refusal:
        return
    assert b"\0" not in found.name


@given(st.lists(st.sampled_from([b"a", b"\r", b"\n", b"\0", b"\r\n"])).map(b"".join), st.integers(1, 5))
def test_netascii_there_and_back(text: bytes, step: int) -> None:
    wire = to_netascii(text)
    reader = FromNetascii()
    pieces = [wire[at : at + step] for at in range(0, len(wire), step)] or [b""]
    assert b"".join(reader.feed(piece, n == len(pieces) - 1) for n, piece in enumerate(pieces)) == text


def test_the_hosts_errors_have_their_codes() -> None:
    for number, code in (
        (errno.EACCES, 2),
        (errno.EXDEV, 2),
        (errno.ENOSPC, 3),
        (errno.EIO, 0),
        (errno.EISDIR, 1),
    ):
        assert tftp.error_of(number)[0] == code


def test_sessions_are_bounded_and_finished_ones_make_room() -> None:
    bench = Bench(f=bytes(600))
    for port in range(tftp.PER_GUEST):
        assert bench.begin(ask(b"f"), sport=3000 + port)
    assert bench.begin(ask(b"f"), sport=4000) == [], "no error: the client asks again"
    assert bench.net.count("tftp_full") == 1
    session = next(iter(bench.net.stack.tftp.sessions.values()))  # type: ignore[union-attr]
    bench.put(HEAD.pack(ERROR, 0) + b"\0", session.tid, sport=3000)
    assert bench.begin(ask(b"f"), sport=4000)
    for guest in range(20, 30):
        address = f"10.0.2.{guest}"
        bench.net.put(arp(1, address, "10.0.2.2", sha=bytes((82, 84, 0, 0, 0, guest))))
        bench.net.take()
        for port in range(tftp.PER_GUEST):
            bench.begin(ask(b"f"), sport=3000 + port, src=address)
    assert len(bench.net.stack.tftp) == tftp.SESSIONS  # type: ignore[arg-type]


def test_what_is_held_of_a_file_is_bounded() -> None:
    bench = Bench(f=bytes(8 << 20))
    answers = bench.begin(ask(b"f"))
    for number in range(1, 6000):
        (session,) = bench.net.stack.tftp.sessions.values()  # type: ignore[union-attr]
        assert len(session._held) <= 2 * READ + tftp_session.WINDOW_BYTES
        answers = bench.ack(number)
        assert answers


def test_closing_the_stack_closes_files_and_directory() -> None:
    bench = Bench(f=bytes(5000))
    bench.begin(ask(b"f"))
    bench.net.stack.close(bench.net.now)
    assert bench.net.host.files.opened[0].closed and bench.net.host.files.closed


def test_without_a_directory_port_69_is_the_hosts_own() -> None:
    net = Net()
    net.put(udp("10.0.2.2", 69, ask(b"f")))
    assert net.host.udps[0].sent[0][1] == ("127.0.0.1", 69)


def test_restrict_leaves_tftp() -> None:
    net = Net(Config(tftp=ROOT, restrict=True))
    net.host.files.files["f"] = b"x"
    net.put(udp("10.0.2.2", 69, ask(b"f")))
    net.host.files.work(net.now)
    assert net.ips()[0].payload == HEAD.pack(DATA, 1) + b"x"


# ---- writing -----------------------------------------------------------------------------------------------


def test_writing_a_file_which_has_its_name_when_it_is_whole() -> None:
    bench = Bench(write=True)
    assert bench.begin(ask(b"new", opcode=WRQ)) == [HEAD.pack(ACK, 0)]
    assert bench.data(1, bytes(512)) == [HEAD.pack(ACK, 1)]
    assert "new" not in bench.files
    assert bench.data(2, b"end") == [HEAD.pack(ACK, 2)]
    assert bench.files["new"] == bytes(512) + b"end"


def test_writing_in_windows_with_a_gap() -> None:
    bench = Bench(write=True)
    (oack,) = bench.begin(ask(b"new", opcode=WRQ, windowsize=3, tsize=9, blksize=8))
    assert oack == b"\0\6blksize\0008\0tsize\0009\0windowsize\0003\0"
    assert bench.data(1, b"11111111") == []
    assert bench.data(3, b"33333333") == [HEAD.pack(ACK, 1)], "2 was lost"
    assert bench.data(2, b"22222222") == []
    assert bench.data(3, b"33333333") == []
    assert bench.data(4, b"44444444") == [HEAD.pack(ACK, 4)]
    assert bench.data(5, b"") == [HEAD.pack(ACK, 5)]
    assert bench.files["new"] == b"11111111222222223333333344444444"


def test_a_block_that_comes_again_is_acknowledged_again_and_taken_once() -> None:
    bench = Bench(write=True)
    bench.begin(ask(b"new", opcode=WRQ))
    bench.data(1, bytes(512))
    assert bench.data(1, bytes(512)) == [HEAD.pack(ACK, 1)]
    bench.data(2, b"x")
    assert bench.data(2, b"x") == [HEAD.pack(ACK, 2)], "the last one too"
    assert len(bench.files["new"]) == 513


def test_writing_rolls_over() -> None:
    bench = Bench(write=True)
    bench.begin(ask(b"new", opcode=WRQ, blksize=8, windowsize=64))
    total = 66000
    for number in range(1, total + 1):
        bench.data(number, bytes(8))
    assert bench.data(total + 1, b"") == [HEAD.pack(ACK, (total + 1) & 0xFFFF)]
    assert len(bench.files["new"]) == 8 * total


def test_writing_netascii() -> None:
    bench = Bench(write=True)
    bench.begin(ask(b"new", b"netascii", WRQ, blksize=8))
    bench.data(1, b"aaaaaaa\r")
    bench.data(2, b"\nb\r\0c")
    assert bench.files["new"] == b"aaaaaaa\nb\rc"


def test_a_full_disk_is_error_3_and_leaves_nothing() -> None:
    bench = Bench(write=True)
    bench.begin(ask(b"new", opcode=WRQ))
    bench.net.host.files.fail = errno.ENOSPC
    assert [head(m) for m in bench.data(1, b"x")] == [(ERROR, 3)]
    assert bench.files == {} and bench.net.host.files.opened[0].closed


def test_an_abandoned_upload_leaves_nothing() -> None:
    bench = Bench(write=True)
    bench.begin(ask(b"new", opcode=WRQ))
    bench.data(1, bytes(512))
    out = bench.run(60)
    assert [head(m) for m in out] == [(ACK, 1)] * (TRIES - 1) + [(ERROR, 0)]
    assert bench.files == {} and bench.net.host.files.opened[0].closed


def test_uploads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tftp_session, "UPLOAD_MAX", 600)
    bench = Bench(write=True)
    bench.begin(ask(b"new", opcode=WRQ))
    bench.data(1, bytes(512))
    assert [head(m) for m in bench.data(2, bytes(512))] == [(ERROR, 3)]


@pytest.mark.parametrize("message", [HEAD.pack(ACK, 0), HEAD.pack(DATA, 1) + bytes(513), HEAD.pack(OACK, 0)])
def test_nonsense_in_an_upload_is_error_4(message: bytes) -> None:
    bench = Bench(write=True)
    bench.begin(ask(b"new", opcode=WRQ))
    assert [head(m) for m in bench.put(message)] == [(ERROR, 4)]


@pytest.mark.parametrize("on", [False, True])
def test_the_directory_is_told_of_tftp_nocase(on: bool) -> None:
    net = Net(Config(tftp=ROOT))
    assert not net.host.files.nocase
    assert net.stack.reconfigure(Config(tftp=ROOT, tftp_nocase=on))
    assert net.host.files.nocase is on
