"""Matplotlib figures as SVG, for pages and files."""

from __future__ import annotations

import io

from matplotlib.figure import Figure


def svg(figure: Figure) -> str:
    """The figure as an SVG element to put into a page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
