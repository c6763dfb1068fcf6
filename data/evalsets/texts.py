"""The texts of a benchmark file, whatever its set."""

from __future__ import annotations

from data.evalsets.files import EvalFile
from data.evalsets.lambada import read_lambada
from data.evalsets.wikitext import read_wikitext


def documents(file: EvalFile) -> list[str]:
    """The texts of a file, each as a whole, without artefacts. Raises InputError as the readers do."""
    if file.evalset == "lambada":
        return [passage.context + passage.target for passage in read_lambada(file.path)]
    return [read_wikitext(file.path).text]
