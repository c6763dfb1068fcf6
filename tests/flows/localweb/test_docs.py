"""From documentation strings to articles: the three dialects, and the articles of a module."""

from __future__ import annotations

from flows.localweb import docs as localdocs
from flows.localweb.prose import blocks_of, plain, prose_chars, to_html


def test_numpydoc_becomes_blocks() -> None:
    found = blocks_of(
        """Smooth a series.

        Parameters
        ----------
        x : array_like
            The samples, with ``NaN`` for
            what is missing.
        width : int, optional
            In samples.

        Notes
        -----
        See :func:`~pkg.other` and the guide [1]_::

            y = smooth(x)

        >>> smooth([1, 2])
        [1.5]
        """
    )
    assert found == [
        ["p", "Smooth a series."],
        ["h", "Parameters"],
        [
            "dl",
            [
                ["x : array_like", "The samples, with NaN for what is missing."],
                ["width : int, optional", "In samples."],
            ],
        ],
        ["h", "Notes"],
        ["p", "See `pkg.other` and the guide [1]:"],
        ["pre", "y = smooth(x)\n>>> smooth([1, 2])\n[1.5]"],
    ]


def test_google_style_becomes_blocks() -> None:
    found = blocks_of(
        """Train it.

        Args:
            steps (int): How many
                of them.
            *rest: Ignored.

        Returns:
            The loss.
        """
    )
    assert found == [
        ["p", "Train it."],
        ["h", "Args"],
        ["dl", [["steps (int)", "How many of them."], ["*rest", "Ignored."]]],
        ["h", "Returns"],
        ["p", "The loss."],
    ]


def test_restructured_text_becomes_blocks() -> None:
    found = blocks_of(
        """Title
        =====

        A *short* text with **bold** and `a link <http://x.example>`_.

        * first item
          goes on
        * second

        1. one
        2. two

        :param name: who
        :returns: a greeting

        .. note:: Mind the gap.

        .. code-block:: python

            print(1)

        .. plot::

            not shown

        .. versionadded:: 3.1
        """
    )
    assert found == [
        ["h", "Title"],
        ["p", "A short text with bold and a link."],
        ["ul", ["first item goes on", "second"]],
        ["ol", ["one", "two"]],
        ["dl", [["param name", "who"], ["returns", "a greeting"]]],
        ["p", "Mind the gap."],
        ["pre", "print(1)"],
        ["p", "Added in version 3.1."],
    ]


def test_html_is_escaped() -> None:
    blocks = [["h", "a < b"], ["p", "x & `y<z>`"], ["dl", [["<t>", "d"]]], ["pre", "if a < b: pass"], ["ul", ["<li>"]]]
    html = to_html(blocks)
    assert "<h2>a &lt; b</h2>" in html
    assert "<p>x &amp; <code>y&lt;z&gt;</code></p>" in html
    assert "<dt>&lt;t&gt;</dt>" in html
    assert "<pre><code>if a &lt; b: pass</code></pre>" in html
    assert "<li>&lt;li&gt;</li>" in html


def test_only_sentences_count_as_prose() -> None:
    sentence = "This is a sentence that is long enough to be counted as prose by anyone."
    blocks = [["p", sentence], ["p", "Short."], ["pre", sentence], ["dl", [["x", sentence]]], ["ul", ["no"]]]
    assert prose_chars(blocks) == 2 * len(sentence)
    assert plain(blocks).count(sentence) == 3


def test_a_class_and_its_methods_are_one_article() -> None:
    sentence = "A sentence about the thing that is described here, for a while. "
    source = (
        f'class Thing:\n    """The first line of the class is its title.\n\n    {sentence * 15}\n    """\n\n'
        f'    def method(self):\n        """{sentence * 15}"""\n'
    )
    (article,) = localdocs.articles_of("pkg.mod", source)
    assert article.name == "pkg.mod.Thing"
    assert article.title == "The first line of the class is its title"
    assert ["h", "`method`"] in article.blocks


def test_a_text_without_sentences_is_left_out() -> None:
    code = "\n".join(f"    >>> value_{n} = compute({n})" for n in range(100))
    assert list(localdocs.articles_of("pkg.mod", f'"""Numbers.\n\n{code}\n"""\n')) == []
    assert list(localdocs.articles_of("pkg.mod", "def broken(:\n")) == []
