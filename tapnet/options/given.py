"""The converted values of one option, and the questions that are asked of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..errors import OptionError


@dataclass
class Given:
    """The converted values of one option."""

    origin: str
    values: dict[str, Any] = field(default_factory=dict)  # repeatable keys: lists
    filters: list[Any] = field(default_factory=list)  # allow= and deny= in their common order
    warnings: list[str] = field(default_factory=list)
    unbuilt: list[str] = field(default_factory=list)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of ``key``."""
        return self.values.get(key, default)

    def error(self, message: str) -> OptionError:
        """An error of this option."""
        return OptionError(f"{self.origin}: {message}")

    def alone(self, key: str, *others: str) -> None:
        """``key`` excludes ``others``."""
        for other in others:
            if key in self.values and other in self.values:
                raise self.error(f"{key}= and {other}= exclude each other")

    def needs(self, key: str, *others: str) -> None:
        """``key`` is nothing without one of ``others``."""
        if key in self.values and not any(other in self.values for other in others):
            raise self.error(f"{key}= needs {' or '.join(o + '=' for o in others)}")
