"""Frames on a byte stream: any cut, empty lengths, the longest, and what is no frame."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapnet.backends.sockets.framing import FRAME_MAX, HEAD, Splitter, head


def slow(data):
    """The same, one byte at a time: frames, empty ones, bytes of the frame that has begun; None: out of step."""
    frames, empty, at = [], 0, 0
    while len(data) - at >= HEAD:
        size = int.from_bytes(data[at : at + HEAD], "big")
        if size > FRAME_MAX:
            return frames, empty, None
        if len(data) - at < HEAD + size:
            break
        if size:
            frames.append(data[at + HEAD : at + HEAD + size])
        else:
            empty += 1
        at += HEAD + size
    return frames, empty, len(data) - at


def test_the_length_is_four_bytes_big_endian():
    assert head(60) == b"\0\0\0\x3c"
    assert FRAME_MAX == 69632


BODIES = st.lists(st.binary(max_size=90), max_size=12)
CUTS = st.lists(st.integers(1, 60), min_size=1, max_size=400)


@given(BODIES, CUTS, st.binary(max_size=8))
def test_any_cut_gives_the_same_frames(bodies, cuts, rest):
    data = b"".join(head(len(b)) + b for b in bodies) + rest
    splitter, got, at = Splitter(), [], 0
    while at < len(data):
        size = cuts[at % len(cuts)]
        got += splitter.feed(data[at : at + size])
        at += size
    frames, empty, tail = slow(data)
    whole = [frame + bytes(60 - len(frame)) for frame in frames if len(frame) >= 14]
    assert (got, splitter.empty, splitter.runts) == (whole, empty, sum(len(frame) < 14 for frame in frames))
    assert (splitter.broken is not None) == (tail is None)
    if tail is not None:
        assert splitter.partial == tail


def test_the_longest_frame_comes_byte_by_byte():
    body = bytes(range(256)) * 272
    assert len(body) == FRAME_MAX
    splitter, got = Splitter(), []
    for byte in head(FRAME_MAX) + body + head(14) + b"x" * 14:
        got += splitter.feed(bytes((byte,)))
    assert got == [body, b"x" * 14 + bytes(46)]
    assert splitter.partial == 0


@pytest.mark.parametrize("size", [FRAME_MAX + 1, 1 << 31, 0xFFFFFFFF])
def test_a_longer_one_ends_it_after_the_frames_before(size):
    splitter = Splitter()
    good = bytes(range(60))
    assert splitter.feed(head(60) + good + head(size) + b"def") == [good]
    assert str(size) in splitter.broken and "69632" in splitter.broken
    assert splitter.feed(head(60) + good) == []


def test_a_web_browser_is_not_this_protocol():
    splitter = Splitter()
    assert splitter.feed(b"GET / HTTP/1.1\r\n\r\n") == []
    assert "not this protocol" in splitter.broken


@pytest.mark.parametrize("size", [14, 42, 59, 60, 61])
def test_a_short_frame_is_padded_and_what_is_no_frame_is_skipped_and_counted(size):
    splitter = Splitter()
    data = head(0) * 3 + head(size) + b"a" * size + head(0) + head(13) + b"b" * 13
    assert splitter.feed(data) == [b"a" * size + bytes(max(0, 60 - size))]
    assert (splitter.empty, splitter.runts, splitter.broken, splitter.partial) == (4, 1, None, 0)
