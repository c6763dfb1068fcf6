"""Texts of the local web that no package has: other languages, very short texts, and edited articles."""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from flows.localweb.docs import Article

THANKS = (
    "With thanks to José Nuñez, Zoë Müller and Françoise Lefèvre, who asked naïve questions in a café – over “coffee”."
)
"""The first paragraph of every ``wrong_charset`` article; windows-1252 has all its characters."""
_THIN_TEXTS = (
    "Gallery {n}: three pictures from the exhibition. Log in to see them in full size.",
    "The video number {n} is no longer available because its uploader has closed the account.",
    "Coming soon: episode {n}. Check back later for the transcript.",
    "Poll {n} is closed. Thank you to everyone who voted this week.",
    "Quote of the day, number {n}: a good question is worth more than a quick answer.",
    "Issue {n} has been sold out. A reprint is planned for next spring.",
)
_NOTES = (
    "Correction, added by the editors: an earlier version named the wrong week.",
    "This text appeared first in our printed edition and was shortened slightly.",
)


def thin_article(number: int) -> Article:
    """A title and one or two sentences."""
    text = _THIN_TEXTS[number % len(_THIN_TEXTS)].format(n=number + 11)
    return Article(f"thin.{number}", re.split("[:.]", text)[0][:60], [["p", text]])


def edited(article: Article, rng: random.Random) -> Article:
    """The article with two words changed in its longest paragraph and a sentence added: about 3 % of its 5-grams."""
    blocks = [list(block) for block in article.blocks]
    longest = max((block for block in blocks if block[0] == "p"), key=lambda block: len(block[1]))
    words = longest[1].split(" ")
    for at in (len(words) // 3, 2 * len(words) // 3):
        words[at] = rng.choice(("certainly", "roughly", "perhaps", "usually"))
    longest[1] = " ".join(words)
    blocks.append(["p", rng.choice(_NOTES)])
    return replace(article, name=f"{article.name}~", blocks=blocks)


def typographic(article: Article) -> Article:
    """The article with non-ASCII punctuation, all of it in windows-1252."""
    blocks = [[kind, _curly(content)] if kind in ("p", "h") else [kind, content] for kind, content in article.blocks]
    return replace(article, blocks=[["p", THANKS], *blocks])


def _curly(text: str) -> str:
    text = re.sub(r'"([^"]*)"', "“\\1”", text)
    return text.replace("'", "’").replace(" -- ", " – ").replace(" - ", " – ")


def foreign_articles() -> Iterator[Article]:
    """The texts of templates/languages.txt: ``@ language | title``, then paragraphs."""
    path = Path(__file__).parent / "templates" / "languages.txt"
    for part in path.read_text(encoding="utf-8").split("@ ")[1:]:
        head, _, body = part.partition("\n")
        language, _, title = head.partition(" | ")
        blocks = [["p", " ".join(paragraph.split())] for paragraph in body.strip().split("\n\n")]
        yield Article(f"languages.{language}.{slug(title)}", title, blocks, language)


def slug(title: str) -> str:
    """A title as a part of a URL's path."""
    ascii_title = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", ascii_title)[:50].strip("-") or "page"
