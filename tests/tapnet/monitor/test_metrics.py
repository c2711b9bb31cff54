"""--metrics: a real scraper's parser reads what a real instance tells, over HTTP."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as families

from tapnet.config import Endpoint
from tapnet.monitor import metrics
from tapnet.monitor.commands import reports
from tapnet.monitor.sessions import metrics as metrics_session
from tapnet.monitor.sessions import server
from tapnet.system import guard
from tests.tapnet.live_kit import Lab, lab, play
from tests.tapnet.wire_kit import until
from tests.waiting import BOUND_S

LOOPBACK = Endpoint("127.0.0.1", 0)
WORDS = "-net user,name=nat -net hub,switch=on -netdev stream,id=s,server=on,addr.type=unix,addr.path={path} " \
        "-netdev hubport,id=h,hubid=0,netdev=s"  # fmt: skip


def scrape(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Samples by name and labels; every family has a type and a help text."""
    found = {}
    for family in families(text):
        assert family.type in ("counter", "gauge") and family.documentation
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def value(samples: dict, name: str, **labels: str) -> float:
    (found,) = [v for (n, ls), v in samples.items() if n == name and labels.items() <= dict(ls).items()]
    return found


def with_server(tmp_path: Path, scene: Callable[[Lab, int, server.Served], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with lab(WORDS, path=tmp_path / "s") as one:
            served = await server.open_metrics(LOOPBACK, one.control)
            try:
                await scene(one, served.port, served)
            finally:
                served.close()

    play(whole)


def test_a_scrape_over_http(tmp_path: Path) -> None:
    async def scene(one: Lab, port: int, _served: server.Served) -> None:
        assert guard.claimed(port), "a guest cannot dial it"
        peer = await one.dial(str(tmp_path / "s"))
        await until(lambda: one.heard("NETDEV_STREAM_CONNECTED"))
        arp = b"\xff" * 6 + bytes.fromhex("020000000001") + b"\x08\x06" + bytes(46)
        for _ in range(7):
            await peer.send(arp)
        port_of = one.instance.patchbay.find("s").port
        await until(lambda: port_of.counters.tx_frames == 7)
        port_of.counters.drop("oversize", 3)

        def get() -> tuple[str, str]:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=BOUND_S) as answer:
                return answer.headers["Content-Type"], answer.read().decode()

        kind, text = await asyncio.to_thread(get)
        assert kind == metrics.CONTENT_TYPE
        seen = scrape(text)
        assert value(seen, "tapnet_port_sent_frames_total", port="s", kind="backend", vlan="0") == 7
        assert value(seen, "tapnet_port_sent_bytes_total", port="s") == 7 * 60
        assert value(seen, "tapnet_port_dropped_frames_total", port="s", reason="oversize") == 3
        assert value(seen, "tapnet_port_link", port="nat") == 1
        assert value(seen, "tapnet_switch_addresses", vlan="0") >= 2
        assert value(seen, "tapnet_info") == 1
        assert value(seen, "process_open_fds") > 3
        # the same in JSON and as text
        (row,) = [row for row in reports.ports(one.control) if row["name"] == "s"]
        assert (row["tx-frames"], row["drops"]["oversize"]) == (7, 3)
        json.dumps(row)
        assert "s: link up, sent 7 frames 420 bytes" in await one.say("info network -v")
        assert "02:00:00:00:00:01" in await one.say("info addresses 0")

    with_server(tmp_path, scene)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /metrics HTTP/1.0\r\n\r\n", 200),
        (b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n", 200),
        (b"GET /metrics HTTP/1.1\n\n", 200),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 405),
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\n" + b"A: b\r\n" * 2000, 431),
    ],
)
def test_requests(tmp_path: Path, request_: bytes, status: int) -> None:
    async def scene(_one: Lab, port: int, _served: server.Served) -> None:
        for size in (len(request_), 7):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for at in range(0, len(request_), size):
                writer.write(request_[at : at + size])
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 %d " % status)
            head, _, body = answer.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split()[0])
            assert len(body) == (0 if request_.startswith(b"HEAD") else length)
            writer.close()

    with_server(tmp_path, scene)


def test_who_says_nothing_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_session, "IDLE_S", 0.05)

    async def scene(_one: Lab, port: int, served: server.Served) -> None:
        clients = [await asyncio.open_connection("127.0.0.1", port) for _ in range(server.SCRAPERS_MAX + 2)]
        for reader, writer in clients:
            try:
                assert await reader.read() == b""
            except ConnectionResetError:
                pass
            writer.close()
        assert served.listener is not None
        await until(lambda: not served.listener._sessions)

    with_server(tmp_path, scene)


def test_labels_are_escaped() -> None:
    lines = metrics.family("a_total", "counter", "Text.", [({"x": 'a"b\\c\nd'}, 1)])
    (family,) = families("\n".join(lines) + "\n")
    assert family.samples[0].labels == {"x": 'a"b\\c\nd'}
    assert metrics.family("b", "gauge", "Text.", []) == []
