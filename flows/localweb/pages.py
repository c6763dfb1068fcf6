"""The local web's pages: an article in one of four layouts, with everything that surrounds articles on real pages.

Each layout has navigation, a cookie notice, a sidebar, share buttons, related links, comments and a footer. Each of
these regions holds its own marker word, so that a test can count how much boilerplate an extractor lets through.
Title, author and date are in the page's metadata (OpenGraph, JSON-LD) and in its text.

A page depends only on its URL, its article and its host, not on the clock, the port or the process. Cost: about 0.5 ms
per page.
"""

from __future__ import annotations

import functools
import json
import random
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import jinja2
from markupsafe import Markup

from flows.localweb.docs import Article
from flows.localweb.prose import plain, to_html

LAYOUTS = ("blog", "news", "docs", "forum")

MARKERS = {
    "cookie": "Crumbleford",
    "nav": "Brindlewick",
    "sidebar": "Sidderham",
    "share": "Sharlowe",
    "related": "Relmouth",
    "comment": "Commerton",
    "footer": "Footsbury",
}
"""Words that occur in one region of every layout and in no article."""

TAGLINES = (
    "Notes on numbers, machines and other quiet things",
    "Explained slowly, once, and in full",
    "What the manual meant to say",
    "Everything worth knowing, most of it twice",
)
TAGS = ("science", "software", "numbers", "machines", "methods", "tools", "data", "graphs", "theory", "practice")
FIRST_NAMES = ("Ada", "Bruno", "Clara", "Dimitri", "Elif", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Kaya", "Lena")
LAST_NAMES = ("Abel", "Brandt", "Castell", "Dorn", "Eriksen", "Falk", "Grau", "Holm", "Ivers", "Juhl", "Kern", "Lund")
MONTHS = tuple("January|February|March|April|May|June|July|August|September|October|November|December".split("|"))
OPENINGS = ("Thanks for this.", "I have to disagree.", "Great read!", "First!", "Late to the party, but", "Hmm.")
REMARKS = (
    "I tried it yesterday and it failed on the third step, as usual.",
    "the second paragraph saved me an entire afternoon.",
    "has anybody got this to work on an older machine?",
    "my colleague sent me here and now I owe them a coffee.",
    "could you write about the opposite case some time?",
    "this used to be different, or do I remember that wrongly?",
    "bookmarked for the weekend, when there is time to read it properly.",
)


@dataclass(frozen=True)
class RelatedPage:
    """A link from one page to another of its host."""

    url: str
    title: str


@dataclass(frozen=True)
class _Page:
    """What a template shows."""

    url: str
    title: str
    body: Markup
    summary: str
    author: str
    date: str
    language: str
    json_ld: Markup

    @property
    def author_slug(self) -> str:
        return self.author.lower().replace(" ", "-")

    @property
    def long_date(self) -> str:
        day = date.fromisoformat(self.date)
        return f"{MONTHS[day.month - 1]} {day.day}, {day.year}"


def render(
    article: Article, url: str, published: str, layout: str, site_name: str, related: list[RelatedPage], charset: str
) -> str:
    """The HTML of a page. ``published`` is an ISO date, ``charset`` the declared one; ``related`` is not empty."""
    rng = random.Random(url)
    summary = plain(article.blocks[:1])[:150].replace("\n", " ")
    author = f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}"
    page = _Page(
        url=url,
        title=article.title,
        body=Markup(to_html(article.blocks)),  # noqa: S704 - escaped there
        summary=summary,
        author=author,
        date=published,
        language=article.language,
        json_ld=_json_ld(article.title, author, published, url, site_name),
    )
    return _template(layout).render(
        page=page,
        site_name=site_name,
        tagline=rng.choice(TAGLINES),
        tags=rng.sample(TAGS, 3),
        related=related,
        comments=_comments(rng),
        marker=MARKERS,
        declared=charset,
    )


def _json_ld(title: str, author: str, published: str, url: str, site_name: str) -> Markup:
    data = {
        "@context": "https://schema.org",
        "@type": "Article",
        "headline": title,
        "datePublished": published,
        "author": {"@type": "Person", "name": author},
        "publisher": {"@type": "Organization", "name": site_name},
        "mainEntityOfPage": url,
    }
    return Markup(json.dumps(data).replace("<", "\\u003c"))  # noqa: S704 - a script's content


def _comments(rng: random.Random) -> list[dict[str, str]]:
    return [
        {
            "author": f"{rng.choice(FIRST_NAMES)} from {MARKERS['comment']}",
            "text": f"{rng.choice(OPENINGS)} {rng.choice(REMARKS)} Greetings from {MARKERS['comment']}.",
        }
        for _ in range(rng.randint(1, 5))
    ]


@functools.cache
def _template(layout: str) -> jinja2.Template:
    return _environment().get_template(f"{layout}.html")


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
