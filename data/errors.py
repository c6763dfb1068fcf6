"""The one exception that is shown to a person as a single line.

    ValueError
    └── InputError    bad input: a file, a setting, a damaged lake; says what is wrong and what to do

Everything else that escapes is a defect of the program and keeps its traceback.
"""

import errno

FULL = (errno.ENOSPC, errno.EDQUOT)


class InputError(ValueError):
    """Bad input. The message is one line: the offending value, where it stands, and what to do about it."""


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What the first of a task group's tasks raised, without the groups around it."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def told(error: OSError) -> str:
    """An error of a disk in a line: which file, what happened, what to do."""
    if error.errno in FULL:
        return f"no space left for {error.filename or 'the lake'}: make room and run the same command again"
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)
