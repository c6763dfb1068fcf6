"""Matplotlib figures as SVG."""

from __future__ import annotations

import io

from matplotlib.figure import Figure

INK = "#000000"
"""Matplotlib's colour of text and axes. ``svg`` turns it into the colour of the page's text, light or dark."""


def svg(figure: Figure) -> str:
    """The figure as an SVG element, without the XML prolog, so that a page can contain it.

    Its background is transparent, and what is drawn in ``INK`` gets the colour of the text around it.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    # What is black and filled, as text is, has no style in the file: it inherits the fill.
    return text[text.index("<svg") :].replace("<svg ", '<svg fill="currentColor" ', 1).replace(INK, "currentColor")
