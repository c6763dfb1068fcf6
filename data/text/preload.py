"""What the fork server of data/text/children.py imports: the extractor, with all that it loads for its first page.

Models, ranks, word lists and expressions take 2 s to load. Done once here, this costs no child and counts towards no
page's time and memory.
"""

from data import bpe
from data.text import children
from data.text.extract import extract

__all__ = ["children"]

_WORDS = "The ferry that links the two halves of the town left the pier at nine and came back in the evening. "

bpe.encoding()
extract(
    f"<html><head><title>A page</title></head><body><p>{_WORDS * 5}</p></body></html>".encode(),
    None,
    "http://a.example/",
)
