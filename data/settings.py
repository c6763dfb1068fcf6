"""What the settings of data/ and model/ share: how values are checked, and which fields decide the result.

    @checked
    @dataclass(frozen=True)
    class TokensConfig:
        val_share: Annotated[float, Field(ge=0, lt=1)] = 0.01    # content: part of the digest
        workers: NonNegativeInt = operational(0)                 # operational: may differ from run to run

The type of a field says which values are allowed. Pydantic checks them strictly: it converts nothing but a whole number
to a float. A rule about several fields goes into ``__post_init__``, which raises InputError.
"""

from __future__ import annotations

import functools
from dataclasses import field, fields
from typing import Any, TypeVar

import pydantic
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_core import ArgsKwargs

from data.errors import InputError

T = TypeVar("T")
_CONFIG = pydantic.ConfigDict(extra="forbid")


def operational(default: Any) -> Any:
    """A field that does not decide the result."""
    return field(default=default, metadata={"operational": True})


def checked(cls: type[T]) -> type[T]:
    """A frozen dataclass that raises InputError for a value that the type of its field does not allow.

    Only a call of the class is strict: where pydantic itself reads JSON into the class, as Prefect does with the
    parameters of a deployment, a list becomes a tuple.
    """
    made: Any = pydantic_dataclass(frozen=True, config=_CONFIG)(cls)
    made.__doc__ = cls.__doc__
    assert made.__pydantic_complete__, "every type is known here; else pydantic would replace __init__ later"

    @functools.wraps(made.__init__)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            made.__pydantic_validator__.validate_python(ArgsKwargs(args, kwargs), strict=True, self_instance=self)
        except pydantic.ValidationError as error:
            raise InputError(_first_problem(made, error)) from error

    made.__init__ = init
    return made  # type: ignore[no-any-return]


def _first_problem(cls: Any, error: pydantic.ValidationError) -> str:
    """The first problem that pydantic found, in one line: the field, what is allowed, the value."""
    problem = error.errors(include_url=False)[0]
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, ValueError):  # raised by __post_init__
        return str(cause)
    place = problem["loc"][0]
    names = [field.name for field in fields(cls)]
    name = names[place] if isinstance(place, int) and place < len(names) else place
    if problem["type"] == "missing":
        return f"{name} is missing"
    if name not in names:
        return f"{name}: no such setting; choose from {', '.join(names)}"
    found = f"{name}: {problem['msg']}".replace(": Input should ", " must ")
    return f"{found}, got {problem['input']!r}"
