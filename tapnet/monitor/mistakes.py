"""What a command raises that it must not: a mistake of ours, and an answer all the same.

Whoever asked hears of it at once, the log has it once with its traceback, and the commands behind it are served. Out of
memory is no such mistake: it is the end of the instance (``tapnet.service.supervise``), and passes.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ..errors import ControlError
from .commands.table import BadParameter

T = TypeVar("T")
WORD_MAX = 64  # of what a client sent, in the log
_EXPECTED = (ControlError, BadParameter, MemoryError)
log = logging.getLogger("tapnet.monitor")


def mistake(command: str, error: BaseException) -> ControlError:
    """Log it; what to answer."""
    command = command[:WORD_MAX]
    log.error("tapnet: %s: a mistake in tapnet", command, exc_info=error)
    shown = traceback.format_exception_only(error)[-1].strip()  # also of one whose own words fail
    return ControlError(f"{command}: a mistake in tapnet: {shown}")


def called(command: str, function: Callable[..., T], *arguments: object) -> T:
    """``function(*arguments)``. Raises what a caller did wrong, and ControlError for all else."""
    try:
        return function(*arguments)
    except _EXPECTED:
        raise
    except Exception as error:
        raise mistake(command, error) from None


async def waited(command: str, work: Awaitable[T]) -> T:
    """The same for work that takes its time. What gave up something inside has not given up the command."""
    try:
        return await work
    except _EXPECTED:
        raise
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise mistake(command, error) from None
    except Exception as error:
        raise mistake(command, error) from None
