"""Matplotlib figures as SVG."""

from __future__ import annotations

import io

from matplotlib.figure import Figure


def svg(figure: Figure) -> str:
    """The figure as an SVG element, without the XML prolog, so that a page can contain it."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
