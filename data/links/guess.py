"""What a file seems to be that holds no submission, in words for the error message.

``guess`` judges the first bytes and the fields of the first ``_N_LINES`` lines. It runs only when a source has failed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from data.links.submissions import loads_leniently

_N_LINES = 100
_URL = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://")
_CDX = re.compile(rb" ?CDX |\S+\)\S* \d{14} ")
_MARKS = (
    (b"[", "a JSON array: write one object per line (jq -c '.[]' FILE)"),
    (b"<", "a page of HTML or XML: download the dump itself"),
    (b"WARC/", "a WARC file of pages: a source holds links"),
    (b"version https://git-lfs", "a pointer of Git LFS: fetch the file itself with git lfs pull"),
)
_FIELDS = (  # the first whose fields an object has
    ({"body", "link_id"}, "comments of Reddit: name the dump of submissions (RS_), not of comments (RC_)"),
    ({"body", "parent_id"}, "comments of Reddit: name the dump of submissions (RS_), not of comments (RC_)"),
    ({"comment_text"}, "comments of Hacker News: name a file of stories"),
    ({"parent"}, "comments of Hacker News: name a file of stories"),
    ({"display_name", "subscribers"}, "subreddits: name the dump of submissions (RS_)"),
    ({"link_karma"}, "accounts of Reddit: name the dump of submissions (RS_)"),
    ({"karma", "submitted"}, "accounts of Hacker News: name a file of stories"),
    ({"hits"}, "an answer of Algolia's search: write its hits one per line (jq -c '.hits[]' FILE)"),
    ({"data"}, "an answer of an interface: write its items one per line (jq -c '.data[]' FILE)"),
    ({"text"}, "texts: write their URLs one per line and name that file urls:FILE"),
    ({"content"}, "texts: write their URLs one per line and name that file urls:FILE"),
)


def guess(head: bytes, is_url_list: bool) -> str:
    """``it seems to be X: what to do``. ``head`` is how the file begins, decompressed."""
    return f"it seems to be {_what(head, is_url_list)}"


def _what(head: bytes, is_url_list: bool) -> str:
    head = head.lstrip()
    mark = next((what for start, what in _MARKS if head.startswith(start)), None)
    if not head or mark is not None:
        return mark or "blank: remove it from the link sources"
    lines = [line for line in head.splitlines() if line.strip()][:_N_LINES]
    if head.startswith(b"{"):
        if is_url_list:
            return "JSON: name it without urls:"
        objects = [item for line in lines if isinstance(item := _json(line), dict)]
        return _objects(objects) if objects else "JSON over several lines: write one object per line (jq -c . FILE)"
    if _URL.match(head):
        return "a list of URLs: name it urls:FILE"
    if _CDX.match(head):
        return "an index of web captures: name the dump of submissions itself"
    for mark_, name in ((b"\t", "tabs"), (b",", "commas")):
        if len(lines) > 1 and all(mark_ in line for line in lines[:-1]):
            wanted = "keep the column of URLs only" if is_url_list else "write one JSON object per line"
            return f"a table with {name}: {wanted}"
    wanted = "one absolute URL per line" if is_url_list else "one JSON object per line"
    return f"plain text: a source has {wanted}"


def _json(line: bytes) -> Any:
    try:
        return loads_leniently(line)
    except (ValueError, RecursionError):
        return None


def _objects(objects: list[dict[str, Any]]) -> str:
    return Counter(map(_object, objects)).most_common(1)[0][0]


def _object(item: Mapping[str, Any]) -> str:
    if item.get("type") == "job" or (isinstance(item.get("_tags"), list) and "job" in item["_tags"]):
        return "jobs of Hacker News: name a file of stories"
    for names, what in _FIELDS:
        if names <= item.keys():
            return what
    fields = ", ".join(sorted(map(repr, item))[:5])
    return f"objects of another kind (fields {fields}): name a dump of submissions"
