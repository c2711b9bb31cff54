"""docs/monitor.md: every example is played, in order, against a real instance."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

from tapnet.config import Chardev, UnixPath
from tapnet.monitor.commands import general as commands
from tapnet.monitor.commands.table import settled
from tapnet.monitor.hmp import WORDS
from tapnet.monitor.sessions import server
from tests.tapnet.live_kit import Lab, lab, play
from tests.tapnet.monitor.test_metrics import scrape

PAGE = Path(__file__).parents[3] / "docs" / "monitor.md"
ANY = "…"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def text() -> str:
    return PAGE.read_text()


def blocks(tmp_path: Path) -> list[tuple[str, str]]:
    return [(kind, body.replace("/run/lab", str(tmp_path))) for kind, body in BLOCK.findall(text())]


def matches(shown: str, seen: str) -> bool:
    return re.fullmatch(re.escape(shown).replace(ANY, ".*"), seen) is not None


async def play_person(one: Lab, body: str) -> None:
    for part in re.split(r"^\(tapnet\) ", body, flags=re.MULTILINE)[1:]:
        line, _, answer = part.partition("\n")
        seen = (await settled(one.hmp.start(line))).text
        pairs = list(zip(answer.splitlines(), seen.splitlines(), strict=False))
        assert len(answer.splitlines()) == len(seen.splitlines()) and all(matches(*pair) for pair in pairs), (
            f"{line}:\n{seen}"
        )


def fits(shown: object, seen: object) -> bool:
    """Whether ``seen`` is what the page shows; a member "…" stands for any others."""
    if shown == ANY:
        return True
    if isinstance(shown, dict) and isinstance(seen, dict):
        named = {key: value for key, value in shown.items() if key != ANY}
        return (ANY in shown or named.keys() == seen.keys()) and all(
            key in seen and fits(value, seen[key]) for key, value in named.items()
        )
    if isinstance(shown, list) and isinstance(seen, list):
        return len(shown) == len(seen) and all(map(fits, shown, seen))
    return shown == seen and type(shown) is type(seen)


class Machine:
    """A QMP client that reads message by message."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def play(self, body: str) -> None:
        """Events that the page does not show are passed over."""
        for line in body.splitlines():
            way, _, message = line.partition(" ")
            if way == "->":
                self.writer.write(message.encode() + b"\n")
                continue
            shown = json.loads(message)
            while True:
                seen = json.loads(await self.reader.readline())
                if fits(shown, seen):
                    break
                assert "event" in seen, f"{line}\n{seen}"


def test_every_example(tmp_path: Path) -> None:
    async def scene() -> None:
        async with lab(
            "--name lab -net nic -net user -qtest unix:{path}/bus,server=on,wait=off", path=tmp_path
        ) as one:
            address = UnixPath(f"{tmp_path}/qmp")
            served = await server.open_qmp(Chardev(origin="-qmp", address=address, server=True), one.control)
            machine = Machine(*await asyncio.open_unix_connection(address.path, limit=1 << 20))
            played = {"monitor": 0, "qmp": 0}
            for kind, body in blocks(tmp_path):
                if kind == "monitor":
                    await play_person(one, body)
                elif kind == "qmp":
                    await machine.play(body)
                played[kind] = played.get(kind, 0) + 1
            assert played["monitor"] >= 6 and played["qmp"] >= 6
            machine.writer.close()
            served.close()

    play(scene)


def test_the_python_example(tmp_path: Path, capsys) -> None:
    (code,) = [body for kind, body in blocks(tmp_path) if kind == "python"]
    space: dict = {}
    exec(compile(code, str(PAGE), "exec"), space)

    async def scene() -> None:
        async with lab("-net nic -net user") as one:
            address = UnixPath(f"{tmp_path}/qmp")
            served = await server.open_qmp(Chardev(origin="-qmp", address=address, server=True), one.control)
            await space["main"](address.path)
            served.close()

    play(scene)
    assert capsys.readouterr().out == "w\n"


def test_every_command_is_on_a_page() -> None:
    page = text()
    pages = "".join(path.read_text() for path in PAGE.parent.glob("*.md"))
    for row in (*commands.GENERAL, *commands.NETWORK, *commands.LIVE):
        for name in row.names:
            shown = f"info {name}" if row.info else name
            assert len(name) < 3 or re.search(rf"\b{re.escape(shown)}\b", pages), shown
        assert re.search(rf"\b{re.escape(row.qmp)}\b", pages), row.qmp
    for name in re.findall(r'"(?:execute|exec-oob)": "([\w-]+)"', page):
        known = {
            *commands.BY_QMP,
            "qmp_capabilities",
            "query-version",
            "query-commands",
            "human-monitor-command",
        }
        assert name in known | {"bogus"}, name
    for name in re.findall(r"^\(tapnet\) (\w+)", page, re.MULTILINE):
        assert name in {*WORDS, "bogus"}, name


def test_every_metric_is_on_the_page() -> None:
    async def scene() -> None:
        from tapnet.monitor.metrics import exposition

        async with lab("-net nic -net user,hostfwd=tcp:127.0.0.1:0-:22 -net hub,switch=on") as one:
            one.instance.patchbay.find("user.0").port.counters.drop("x")
            names = {name for name, _ in scrape(exposition(one.control))}
            page = set(re.findall(r"\b((?:tapnet|process)_\w+)", text().partition("## Metrics")[2]))
            assert names <= page, names - page
            assert page - names <= {"tapnet_card_events_total", "tapnet_port_dropped_frames_total"}, (
                page - names
            )

    play(scene)
