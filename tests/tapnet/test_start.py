"""What tapnet's start must not wait for: large libraries that few configurations need."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.waiting import BOUND_S

HEAVY = (
    "dpkt",
    "pyroute2",
    "websockets",
    "prompt_toolkit",
    "lzma",
    "bz2",
    "hashlib",
    "tempfile",
    "decimal",
    "tomllib",
)
CODE = """
import sys
{imports}
print(*sorted(set({heavy!r}) & set(sys.modules)))
"""


@pytest.mark.parametrize(
    "imports",
    [
        "import tapnet.cli",
        "import tapnet.service.run, tapnet.instance.instance, tapnet.guest.prepare, tapnet.guest.namespace.guest",
    ],
)
def test_heavy_libraries_are_imported_when_they_are_needed(imports: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(imports=imports, heavy=HEAVY)],
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=True,
    )
    assert done.stdout == "\n"


INTERRUPTED = """
import sys
from tapnet.__main__ import main
class Stop:
    def find_spec(self, name, *rest):
        if name == "tapnet.cli":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Stop())
sys.exit(main())
"""


def test_an_interrupt_while_modules_are_read_is_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=BOUND_S
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
