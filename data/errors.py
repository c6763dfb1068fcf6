"""The exceptions that a person sees as a single line.

    ValueError
    └── InputError         bad input: a file, a setting, a damaged lake; says what is wrong and what to do
        └── KilledError    someone ended this process or a child of it; says that the same command goes on
    OSError                a disk; `told` says which file and what to do
    └── StoreError         the object store that holds the lake: away, busy, or it refuses

Everything else that escapes is a defect of the program and keeps its traceback.
"""

from __future__ import annotations

import errno
import threading
from typing import Any

FULL = (errno.ENOSPC, errno.EDQUOT)


class InputError(ValueError):
    """Bad input. The message is one line: the wrong value, where it is, and what to do about it."""


class KilledError(InputError):
    """This process was asked to stop, or a child of it was ended from outside. That says nothing about the input."""


stopping = threading.Event()
"""Set once someone has asked this process to stop. Its threads may go on for a while, but they seal nothing."""


def refuse_when_stopping() -> None:
    """Raise KilledError if this process was asked to stop."""
    if stopping.is_set():
        raise KilledError("this process was asked to stop: run the same command again to go on from there")


class StoreError(OSError):
    """The object store did not do what it was asked. Never take it for a missing or damaged file.

    ``may_pass``: the store was away or busy, so asking again may help. ``is_conflict``: the store refused a conditional
    write, because the object is not what the writer expected.
    """

    def __init__(self, where: str, what: str, *, may_pass: bool = False, is_conflict: bool = False) -> None:
        super().__init__(errno.EIO, what, where)
        self.may_pass = may_pass
        self.is_conflict = is_conflict

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.filename, self.strerror), self.__dict__


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a task group, without the groups around it."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def told(error: OSError) -> str:
    """An error of a disk or an object store in one line: which file, what happened, what to do."""
    if error.errno in FULL:
        return f"no space left for {error.filename or 'the lake'}: make room and run the same command again"
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)
