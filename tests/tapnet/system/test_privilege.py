"""Giving privilege away: in a child each time, because there is no way back."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tapnet.options import parse as options
from tapnet.system import privilege
from tapnet.system.privilege import PrivilegeError
from tests.waiting import BOUND_S

ROOT = Path(__file__).resolve().parents[3]
root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def child(code: str) -> list[str]:
    """Lines that ``code`` prints. Behind ``drop`` it cannot import: its Python may lie in root's home."""
    done = subprocess.run(
        [sys.executable, "-c", f"import os\nfrom tapnet.system import privilege\n{code}"],
        capture_output=True, text=True, timeout=BOUND_S, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


SHOWN = """
for line in open("/proc/self/status"):
    word, _, value = line.partition(":")
    if word in ("Uid", "Gid", "Groups", "CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb", "NoNewPrivs"):
        print(word, " ".join(value.split()))
"""


@root
@pytest.mark.parametrize("tap", [False, True])
def test_all_goes_but_what_a_tap_needs(tap: bool) -> None:
    to = privilege.account("nobody")
    seen = dict(
        line.split(" ", 1)
        for line in child(f"privilege.drop(privilege.account('nobody'), keep_net_admin={tap})\n{SHOWN}")
    )
    kept = f"{1 << 12 if tap else 0:016x}"
    assert (seen["Uid"], seen["Gid"]) == (" ".join([str(to.uid)] * 4), " ".join([str(to.gid)] * 4))
    assert {int(word) for word in seen["Groups"].split()} == set(to.groups)
    assert (seen["CapEff"], seen["CapPrm"]) == (kept, kept)
    assert {seen[word] for word in ("CapInh", "CapBnd", "CapAmb")} == {"0" * 16}
    assert seen["NoNewPrivs"] == "1"


@root
def test_no_way_back_and_a_word_for_taps() -> None:
    code = """
privilege.drop(privilege.account("nobody"), keep_net_admin=False)
try:
    os.setuid(0)
except PermissionError:
    print("no way back")
print(privilege.gave_away)
"""
    assert child(code) == [
        "no way back",
        "--runas nobody gave it away, because no TAP was configured at the start",
    ]


def test_what_comes_later_is_loaded_before() -> None:
    """USER may not be allowed to read tapnet and its libraries: nothing is looked for behind ``load``."""
    code = """
import sys
privilege.load()
class Refuse:
    def find_spec(self, name, *rest):
        raise PermissionError(name)
sys.meta_path.insert(0, Refuse())
from tapnet.backends.tap.opening import netlink
netlink(lambda ipr: print(ipr.link("get", index=1)[0].get("IFLA_IFNAME")))
import tapnet.instance.swap, tapnet.backends.tap.backend, tapnet.backends.sockets.ws, tapnet.lan.vxlan, tapnet.capture.captures
"".encode("idna")
import asyncio, json, logging, socket
async def late():
    loop = asyncio.get_running_loop()
    await loop.getaddrinfo("localhost", 1, type=socket.SOCK_STREAM)
    try:
        async with asyncio.timeout(0):
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(9))
    except TimeoutError as error:
        logging.getLogger("tapnet").error("said", exc_info=error)
    await loop.run_in_executor(None, json.loads, json.dumps({}).encode("utf-16"))
asyncio.run(late())
for text in ("1 +", "import os; os.pth", "f(", "{}['é']", "fo = foo"):
    try:
        exec(text)
    except Exception:
        logging.getLogger("tapnet").exception("said")
print("told")
"""
    assert child(code) == ["lo", "told"]


def named() -> dict[str, str]:
    """Modules that ours name in an import, wherever it stands in them: who does."""
    found: dict[str, str] = {}

    def look(node: ast.AST, where: str, package: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            look(child, where, package)
            if isinstance(child, ast.Import):
                found.update({alias.name: where for alias in child.names})
            elif isinstance(child, ast.ImportFrom):
                parts = package.split(".")[: len(package.split(".")) - child.level + 1] if child.level else []
                base = ".".join([*parts, *([child.module] if child.module else [])])
                found.update({base: where, **{f"{base}.{alias.name}": where for alias in child.names}})

    for room in ("tapnet", "slirp", "nic_models"):
        for path in (ROOT / room).rglob("*.py"):
            if path.name != "__main__.py":
                look(ast.parse(path.read_text()), str(path), ".".join(path.parent.relative_to(ROOT).parts))
    return found


def test_what_any_module_imports_in_a_function_is_loaded_before() -> None:
    """Also what no test below reaches."""
    names = named()
    assert {"pytun", "tomllib", "websockets.server"} <= set(names)
    code = f"""
import importlib, sys
privilege.load()
there = set(sys.modules)
for name in {sorted(names)!r}:
    if name not in there:
        try:
            importlib.import_module(name)
        except ImportError:
            continue  # a function or a class, or nothing that there is here
        print(name)
"""
    assert {name: names[name] for name in child(code)} == {}


def codecs_used() -> set[str]:
    """Encodings that our modules name."""
    found = set()
    for room in ("tapnet", "slirp", "nic_models"):
        for path in (ROOT / room).rglob("*.py"):
            for call in ast.walk(ast.parse(path.read_text())):
                if isinstance(call, ast.Call):
                    named = [word.value for word in call.keywords if word.arg == "encoding"]
                    if getattr(call.func, "attr", "") in ("encode", "decode"):
                        named += call.args[:1]
                    found |= {str(one.value) for one in named if isinstance(one, ast.Constant)}
    return found


def test_encodings_are_loaded_before() -> None:
    used = codecs_used() | {"idna", "punycode", "utf-16", "utf-32-be"}  # names, and what JSON may come in
    assert "unicode_escape" in used
    code = f"""
import codecs, sys
privilege.load()
class Refuse:
    def find_spec(self, name, *rest):
        raise PermissionError(name)
sys.meta_path.insert(0, Refuse())
for name in {sorted(used)!r}:
    "x".encode(name)
"""
    assert child(code) == []


def test_behind_the_fence_nothing_is_started() -> None:
    code = """
import subprocess, threading
privilege._prctl(privilege._PR_SET_NO_NEW_PRIVS, 1)
print(privilege.fence())
def start():
    try:
        subprocess.run(["/bin/true"])
    except PermissionError as error:
        print(error.strerror)
start()
thread = threading.Thread(target=start); thread.start(); thread.join()
print(open("/etc/hostname").read() != "", len(os.listdir("/usr")) > 0)
import ssl
"""
    lines = child(code)
    if lines[0] == "False":
        assert not Path("/sys/kernel/security/landlock").exists()
        return
    assert lines == ["True", "Permission denied", "Permission denied", "True True"]


def test_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PrivilegeError, match=r"^--runas no-such-user: no such user$"):
        privilege.account("no-such-user")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PrivilegeError, match="only root can"):
        privilege.account("nobody")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(PrivilegeError, match="that is root"):
        privilege.account("root")


@pytest.mark.parametrize(
    ("net", "tap", "programs"),
    [
        ("user", False, ""),
        ("tap", True, ""),
        ("tap,script=/bin/x", True, "-net tap: script="),
        ("tap,downscript=/bin/x", True, "-net tap: downscript="),
        ("tap,helper=/bin/x", True, "-net tap: helper="),
    ],
)
def test_what_a_configuration_needs(net: str, tap: bool, programs: str) -> None:
    config = options.parse(["-net", "nic", "-net", net], "run", {})
    assert (privilege.wants_tap(config), privilege.runs_programs(config)) == (tap, programs)
    assert privilege.wants_tap(options.parse(["--mode", "user", "-net", net], "run", {})) == tap
