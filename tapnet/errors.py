"""What a person did wrong, in one line: the errors that every room may raise and that the rooms above turn into an answer.

``OptionError`` is for the command line and the configuration file, ``BuildError`` for what cannot be built on this host,
``ControlError`` for a request of a monitor. The text of each is written for the person who reads it.
"""

from __future__ import annotations

from .text import printable

USAGE = 2  # exit status of usage errors
MAX_MESSAGE = 1000


class OptionError(Exception):
    """Something that the user configured wrong: one line, without "tapnet: " before it."""

    status = USAGE

    def __init__(self, message: str) -> None:
        super().__init__(printable(message)[:MAX_MESSAGE])


class HelpAsked(OptionError):
    """``-net help`` and the like: the text to print, exit status 0."""

    status = 0

    def __init__(self, message: str) -> None:
        Exception.__init__(self, message)


class BuildError(Exception):
    """The configuration cannot be built here; one line that names option, key and value."""


class ControlError(Exception):
    """A request that cannot be met; the text is for the person who made it. ``kind``: QMP's class."""

    kind = "GenericError"


class NotFound(ControlError):
    """There is no such device."""

    kind = "DeviceNotFound"

    def __init__(self, name: str) -> None:
        super().__init__(f"Device '{name}' not found")


class Refused(ControlError):
    """The same, where QEMU has words of its own for it: they are the whole answer."""
