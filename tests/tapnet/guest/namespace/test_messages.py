"""The channel between tapnet and its helpers."""

from __future__ import annotations

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapnet.guest.namespace.messages import MESSAGE_MAX, Channel


@given(st.lists(st.dictionaries(st.text(max_size=5), st.integers() | st.text(), max_size=4), max_size=20))
def test_messages_come_in_order(messages: list[dict[str, object]]) -> None:
    messages = [{key: value for key, value in m.items() if key != "fds"} for m in messages]
    left, right = Channel.pair()
    try:
        for message in messages:
            left.send(message)
        left.socket.shutdown(socket.SHUT_WR)
        got = []
        while (received := right.receive()) is not None:
            got.append(received[0])
        assert got == messages and right.eof
    finally:
        left.close()
        right.close()


def test_descriptors_stay_with_their_message() -> None:
    left, right = Channel.pair()
    pipes = [os.pipe() for _ in range(3)]
    left.send({"n": 0}, [pipes[0][1], pipes[1][1]])
    left.send({"n": 1})
    left.send({"n": 2}, [pipes[2][1]])
    sizes = []
    for expected in range(3):
        received = right.receive()
        assert received is not None
        message, fds = received
        assert message == {"n": expected}
        sizes.append(len(fds))
        for fd in fds:
            assert not os.get_inheritable(fd)
            os.write(fd, b"x")
            os.close(fd)
    assert sizes == [2, 0, 1]
    for read, write in pipes:
        assert os.read(read, 2) == b"x"
        os.close(read)
        os.close(write)
    left.close()
    right.close()


def test_nothing_yet_is_not_the_end() -> None:
    left, right = Channel.pair()
    right.socket.setblocking(False)
    assert right.receive() is None and not right.eof
    left.socket.send(b"\x05\x00")  # half a length
    assert right.receive() is None and not right.eof
    left.close()
    assert right.receive() is None and right.eof
    right.close()


def test_a_length_beyond_the_limit_is_refused() -> None:
    left, right = Channel.pair()
    left.socket.send((MESSAGE_MAX + 1).to_bytes(4, "little"))
    with pytest.raises(ValueError, match="message of"):
        right.receive()
    left.close()
    right.close()
    with pytest.raises(OSError):
        right.send({})
