"""What the fork server of data/text/children.py imports: the extractor, with its models and the ranks loaded.

Loading takes 0.8 s. Done once here, it costs no child and counts towards no page's time and memory.
"""

from data import bpe
from data.text import children, choice, language

__all__ = ["children"]

choice.model()
language.identify("")
bpe.encoding()
