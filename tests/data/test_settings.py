"""Settings are checked strictly. An error names the field, the allowed values and the given value."""

import pickle
from dataclasses import FrozenInstanceError, dataclass, fields, replace
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from data.errors import InputError
from data.settings import checked, operational


@checked
@dataclass(frozen=True)
class Oven:
    """Settings for a test."""

    degrees: PositiveInt
    share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    mode: Literal["fan", "grill"] = "fan"
    trays: tuple[str, ...] = ()
    is_on: bool = False
    minutes: NonNegativeInt | None = operational(None)

    def __post_init__(self) -> None:
        if self.mode == "grill" and self.degrees > 250:
            raise InputError(f"degrees must be at most 250 with mode=grill, got {self.degrees}")


OVEN = Oven(180)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"degrees": 0}, "degrees must be greater than 0, got 0"),
        ({"degrees": "180"}, "degrees must be a valid integer, got '180'"),
        ({"degrees": True}, "degrees must be a valid integer, got True"),
        ({"degrees": 180.0}, "degrees must be a valid integer, got 180.0"),
        ({"degrees": None}, "degrees must be a valid integer, got None"),
        ({"share": 1.0}, "share must be less than 1, got 1.0"),
        ({"share": "0.5"}, "share must be a valid number, got '0.5'"),
        ({"share": float("nan")}, "share must be less than 1, got nan"),
        ({"mode": "steam"}, "mode must be 'fan' or 'grill', got 'steam'"),
        ({"trays": ["top"]}, "trays must be a valid tuple, got ['top']"),
        ({"trays": (1,)}, "trays must be a valid string, got 1"),
        ({"is_on": 1}, "is_on must be a valid boolean, got 1"),
        ({"minutes": -1}, "minutes must be greater than or equal to 0, got -1"),
        ({"mode": "grill", "degrees": 251}, "degrees must be at most 250 with mode=grill, got 251"),
        ({"light": 1}, "light: no such setting; choose from degrees, share, mode, trays, is_on, minutes"),
    ],
)
def test_an_invalid_value_is_an_error_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        replace(OVEN, **change)
    assert str(caught.value) == message


def test_a_setting_without_a_default_is_required() -> None:
    with pytest.raises(InputError, match=r"^degrees is missing$"):
        Oven()  # type: ignore[call-arg]


def test_the_error_names_a_setting_given_by_position() -> None:
    with pytest.raises(InputError, match=r"^share must be less than 1, got 2$"):
        Oven(180, 2)


def test_valid_values_are_kept_unchanged() -> None:
    oven = Oven(200, share=0.25, mode="grill", trays=("top",), is_on=True, minutes=7)
    assert (oven.degrees, oven.share, oven.mode, oven.trays, oven.minutes) == (200, 0.25, "grill", ("top",), 7)
    assert oven.is_on is True


def test_checked_settings_stay_a_frozen_dataclass() -> None:
    with pytest.raises(FrozenInstanceError):
        OVEN.degrees = 1  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(OVEN)) == OVEN == Oven(180)
    assert hash(OVEN) == hash(Oven(180))
    assert repr(OVEN).startswith("Oven(degrees=180, share=0.5, ")
    assert Oven.__doc__ == "Settings for a test."
    assert [field.name for field in fields(Oven) if field.metadata.get("operational")] == ["minutes"]


def test_settings_are_read_from_the_json_that_prefect_passes() -> None:
    adapter = TypeAdapter(Oven)
    assert adapter.validate_python({"degrees": 200, "trays": ["top"]}) == Oven(200, trays=("top",))
    for wrong in ({"degrees": 0}, {"degrees": 200, "light": 1}, {"degrees": 251, "mode": "grill"}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)
