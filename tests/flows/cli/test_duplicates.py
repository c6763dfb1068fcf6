"""The marks of ``webtext duplicates``."""

from flows.cli.duplicates import side_by_side


def marked(left: str, right: str) -> list[tuple[str, str]]:
    return [(ours.plain, theirs.plain) for ours, theirs in side_by_side(left, right, has_styles=False)]


def test_only_words_that_differ_are_marked() -> None:
    rows = marked("same line\none two three\nlast", "same line\none 2 three four\nlast")
    assert rows == [
        ("same line", "same line"),
        ("one [-two-] three", "one {+2+} three {+four+}"),
        ("last", "last"),
    ]


def test_lines_of_one_text_alone_stand_beside_nothing() -> None:
    assert marked("a\nb", "a\nnew one\nb") == [("a", "a"), ("", "{+new one+}"), ("b", "b")]
    assert marked("", "") == []


def test_a_terminal_shows_the_words_reversed_and_no_markup_of_the_text() -> None:
    ((ours, theirs),) = side_by_side("one [bold]two[/bold]", "one two", has_styles=True)
    assert (ours.plain, theirs.plain) == ("one [bold]two[/bold]", "one two")
    assert [(span.start, span.end, span.style) for span in theirs.spans] == [(4, 7, "reverse")]


def test_very_long_lines_are_marked_whole() -> None:
    left = " ".join(map(str, range(3_000)))
    assert marked(left, f"{left} x") == [(f"[-{left}-]", f"{{+{left} x+}}")]
