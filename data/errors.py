"""The one exception that a person sees as a single line.

    ValueError
    └── InputError    bad input: a file, a setting, a damaged lake; says what is wrong and what to do

Everything else that escapes is a defect of the program and keeps its traceback.
"""

import errno

FULL = (errno.ENOSPC, errno.EDQUOT)


class InputError(ValueError):
    """Bad input. The message is one line: the wrong value, where it is, and what to do about it."""


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a task group, without the groups around it."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def told(error: OSError) -> str:
    """A disk error in one line: which file, what happened, what to do."""
    if error.errno in FULL:
        return f"no space left for {error.filename or 'the lake'}: make room and run the same command again"
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)
