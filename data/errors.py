"""The one exception that is shown to a person as a single line.

    ValueError
    └── InputError    bad input: a file, a setting, a damaged lake; says what is wrong and what to do

Everything else that escapes is a defect of the program and keeps its traceback.
"""


class InputError(ValueError):
    """Bad input. The message is one line: the offending value, where it stands, and what to do about it."""


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What the first of a task group's tasks raised, without the groups around it."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
