"""What the fork server of data/text/children.py imports: the extractor, and the models, loaded.

Loading takes 0.7 s. Done once here, it costs no child and counts towards no page's time and memory.
"""

from data.text import children, choice, language

__all__ = ["children"]

choice.model()
language.identify("")
