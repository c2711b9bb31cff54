"""``python -m tapnet`` and the ``tapnet`` program."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the program and return its exit status."""
    try:
        from .cli import main as program  # here: ^C may come while modules are being read

        return program()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
