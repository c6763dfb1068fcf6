"""Printed results: text of the web is shown unchanged, never as markup."""

import pytest

from flows.cli import show
from flows.cli.doctor import Check, Checks


def test_titles_with_brackets_are_printed_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    fields = {"status": "ok", "reason": "", "title": "[/r/foo] A [video] of [bold]markup"}
    show.why([{"snapshot": "s", "canonical_url": "http://a.example/[x]", "stages": {"text": fields}}])
    printed = capsys.readouterr().out
    assert "[/r/foo] A [video] of [bold]markup" in printed
    assert "http://a.example/[x]" in printed


def test_doctor_marks_are_styled_and_details_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    show.doctor(Checks([Check("links/s", "bad", "[red]damaged[/red]")]))
    assert capsys.readouterr().out == "bad   links/s: [red]damaged[/red]\n"
