"""What one check of ``tapnet doctor`` found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check. ``mend`` is a command, or what to do; empty when ``ok``."""

    name: str
    ok: bool
    text: str
    mend: str = ""
    needs: tuple[str, ...] = ()  # modes that cannot do without

    def line(self) -> str:
        """As it is printed."""
        if self.ok:
            return f"ok  {self.text}"
        return f"--  {self.text}: {self.mend}" if self.mend else f"--  {self.text}"
