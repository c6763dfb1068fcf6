"""What a page says about itself: its declared types, its generator, its URL and the elements that it is made of.

Sources: schema.org types in JSON-LD and microdata, the Open Graph protocol (``og:type``), HTML (``meta generator``).
"""

from __future__ import annotations

import re
from collections import Counter
from urllib.parse import urlsplit

from lxml.html import HtmlElement

_TYPES = (
    *("Article", "NewsArticle", "BlogPosting", "TechArticle", "QAPage", "Question", "DiscussionForumPosting"),
    *("Product", "ItemList", "CollectionPage", "FAQPage", "Event", "Course", "Recipe", "Organization"),
    *("LocalBusiness", "Service", "WebPage", "WebSite", "SoftwareApplication", "VideoObject", "Review"),
    "BreadcrumbList",
)
_ITEM_TYPES = ("Article", "BlogPosting", "Question", "Product", "DiscussionForumPosting")
_GENERATORS = {
    "forum": re.compile("discourse|phpbb|vbulletin|xenforo|invision|vanilla|nodebb|flarum"),
    "wiki": re.compile("mediawiki|dokuwiki|confluence"),
    "documentation": re.compile("sphinx|docutils|mkdocs|docusaurus|gitbook|vitepress|doxygen|javadoc|jekyll|hugo"),
    "wordpress": re.compile("wordpress"),
    "shop": re.compile("shopify|woocommerce|magento|bigcommerce|prestashop"),
}
_BODY_CLASSES = {
    "single": re.compile("single|article|post-template|postid"),
    "page": re.compile("page-template|page-id"),
    "product": re.compile("product"),
    "collection": re.compile("collection|category|archive|tax-"),
    "home": re.compile("home"),
    "forum": re.compile("forum|thread|topic|question|phpbb|xf"),
}
_URL_PARTS = {
    "forum": re.compile(r"forum|thread|topic|/t/|discuss|community|questions?/|showthread|viewtopic|board|answers"),
    "documentation": re.compile(r"docs?\b|documentation|wiki|manual|reference|api|guide|help|support|tutorial|man\d"),
    "product": re.compile(r"product|/p/|item|shop|/dp/|store|buy"),
    "collection": re.compile(r"collection|categor|catalog|/c/|/all"),
    "article": re.compile(r"blog|news|article|story|/20\d\d/|post"),
    "listing": re.compile(r"list|tag|search|archive|index|jobs|events|courses|programs|directory"),
}
_ELEMENTS = (
    *("article", "p", "table", "pre", "form", "li", "h2", "h3", "img", "time", "main", "blockquote", "code"),
    "button",
)
_TYPE = re.compile(r'"@type"\s*:\s*\[?\s*"([A-Za-z]+)"')
_LONG_NUMBER = re.compile(r"\d{4,}")
_MAX_JSON = 200_000  # characters of JSON-LD that are read


def facts_of(tree: HtmlElement, url: str) -> dict[str, int]:
    """The facts of a page as whole numbers, always the same names in the same order. The tree stays as it is."""
    open_graph, generators, json_ld = _declared(tree)
    types = set(_TYPE.findall(json_ld[:_MAX_JSON]))
    elements: Counter[str] = Counter()
    item_types = []
    for element in tree.iter():
        if isinstance(element.tag, str):
            elements[element.tag] += 1
            if "itemtype" in element.attrib:
                item_types.append(element.attrib["itemtype"])
    items = " ".join(item_types)
    body = tree.find("body")
    roots = [tree] if body is None else [tree, body]
    classes = " ".join(f"{root.get('class', '')} {root.get('id', '')}" for root in roots).lower()
    parts = urlsplit(url)
    place = f"{parts.netloc}{parts.path}?{parts.query}".lower()
    path = parts.path.strip("/")
    return {
        "og article": int(open_graph.startswith(("article", "blog"))),
        "og website": int(open_graph == "website"),
        "og product": int("product" in open_graph),
        "og none": int(not open_graph),
        **{f"type {name}": int(name in types) for name in _TYPES},
        **{f"item {name}": int(name in items) for name in _ITEM_TYPES},
        **{f"generator {name}": int(bool(found.search(generators))) for name, found in _GENERATORS.items()},
        **{f"class {name}": int(bool(found.search(classes))) for name, found in _BODY_CLASSES.items()},
        **{f"url {name}": int(bool(found.search(place))) for name, found in _URL_PARTS.items()},
        "url depth": path.count("/") + 1 if path else 0,
        "url length": len(parts.path),
        "url dashes": path.rpartition("/")[2].count("-"),
        "url query": int(bool(parts.query)),
        "url number": int(bool(_LONG_NUMBER.search(parts.path))),
        **{f"elements {name}": elements[name] for name in _ELEMENTS},
    }


def _declared(tree: HtmlElement) -> tuple[str, str, str]:
    """``og:type``, the generators and all JSON-LD of a page."""
    open_graph = ""
    generators = []
    for meta in tree.iter("meta"):
        name = (meta.get("property") or meta.get("name") or "").lower()
        if name == "og:type":
            open_graph = (meta.get("content") or "").strip().lower()
        elif name == "generator":
            generators.append((meta.get("content") or "").lower())
    scripts = [script.text or "" for script in tree.iter("script") if "ld+json" in (script.get("type") or "")]
    return open_graph, " ".join(generators), "\n".join(scripts)
