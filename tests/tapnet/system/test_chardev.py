"""Listening and connecting character devices."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat

import pytest

from tapnet.config import Chardev, Endpoint, UnixPath
from tapnet.system import chardev, guard
from tapnet.system.chardev import ServerError, connect, listen, shown


def unix(path, **options):
    return Chardev(origin="-qtest X", address=UnixPath(str(path), **options), server=True)


def tcp(host="127.0.0.1", port=0):
    return Chardev(origin="-qtest X", address=Endpoint(host, port), server=True)


def test_names():
    assert shown(unix("/x")) == "unix:/x"
    assert shown(tcp("::1", 5)) == "tcp:[::1]:5"
    assert shown(Chardev(origin="-qtest X", address=None)) == "stdio"


def test_a_socket_is_its_owners_and_goes_with_us(tmp_path):
    path = tmp_path / "bus"
    listening = asyncio.run(listen(unix(path)))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    listening.close()
    assert not path.exists()
    listening.close()


def test_a_connection_that_is_refused_is_one_plain_line():
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    nobody = Chardev(origin=f"-qtest tcp:127.0.0.1:{port}", address=Endpoint("127.0.0.1", port))
    with pytest.raises(
        ServerError, match=f"^-qtest tcp:127.0.0.1:{port}: cannot connect: Connection refused$"
    ):
        asyncio.run(connect(nobody))


def test_a_refusal_that_comes_later_has_the_same_words(monkeypatch):
    """asyncio's own words tell the address."""

    async def later(_family, target):
        raise ConnectionRefusedError(errno.ECONNREFUSED, f"Connect call failed {target}")

    monkeypatch.setattr(chardev, "_connected", later)
    nobody = Chardev(origin="-qtest X", address=Endpoint("127.0.0.1", 1))
    with pytest.raises(ServerError, match=r"^-qtest X: cannot connect: Connection refused$"):
        asyncio.run(connect(nobody))


def test_a_dead_socket_is_replaced(tmp_path):
    path = tmp_path / "bus"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    asyncio.run(listen(unix(path))).close()
    assert not path.exists()


def test_somebody_elses_socket_in_our_place_stays(tmp_path):
    path = tmp_path / "bus"
    first = asyncio.run(listen(unix(path)))
    path.unlink()
    second = asyncio.run(listen(unix(path)))
    first.close()
    assert path.exists()
    second.close()


def test_a_live_socket_is_an_error(tmp_path):
    path = tmp_path / "bus"
    listening = asyncio.run(listen(unix(path)))
    with pytest.raises(ServerError, match=r"^-qtest X: cannot listen: somebody listens there already$"):
        asyncio.run(listen(unix(path)))
    listening.close()


def test_a_file_is_an_error_and_stays(tmp_path):
    path = tmp_path / "bus"
    path.write_text("mine")
    with pytest.raises(ServerError, match="it exists and is not a socket"):
        asyncio.run(listen(unix(path)))
    assert path.read_text() == "mine"


def test_no_such_directory(tmp_path):
    with pytest.raises(ServerError, match="cannot listen: No such file or directory"):
        asyncio.run(listen(unix(tmp_path / "no" / "bus")))


def test_abstract():
    name = f"tapnet-test-{os.getpid()}"
    listening = asyncio.run(listen(unix(name, abstract=True)))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\0" + name)
    with pytest.raises(ServerError, match="in use"):
        asyncio.run(listen(unix(name, abstract=True)))
    listening.close()


def test_tcp_is_marked_while_it_listens():
    listening = asyncio.run(listen(tcp()))
    port = listening.port
    assert guard.claimed(port)
    with pytest.raises(ServerError, match="in use"):
        asyncio.run(listen(tcp(port=port)))
    listening.close()
    assert not guard.claimed(port)


def test_connect(tmp_path):
    for listening in (asyncio.run(listen(tcp())), asyncio.run(listen(unix(tmp_path / "bus")))):
        where = (
            UnixPath(str(tmp_path / "bus")) if listening.port == 0 else Endpoint("localhost", listening.port)
        )
        connected = asyncio.run(connect(Chardev(origin="-qtest X", address=where)))
        assert not connected.getblocking()
        accepted, _ = listening.socket.accept()
        accepted.sendall(b"x")
        connected.setblocking(True)
        assert connected.recv(1) == b"x"
        connected.close()
        accepted.close()
        listening.close()


def test_nobody_there(tmp_path):
    with pytest.raises(ServerError, match=r"^-qtest X: cannot connect: No such file or directory$"):
        asyncio.run(connect(unix(tmp_path / "bus")))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(ServerError, match="cannot connect: "):
            asyncio.run(connect(tcp(port=free.getsockname()[1])))
