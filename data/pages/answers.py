"""What an HTTP answer means for its link: a page, a redirect, or a typed failure."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from data.http.client import resolve_redirect
from data.http.decode import begins_as_compressed
from data.http.exchange import HTML_TYPES, Answer, FetchError, media_type
from data.pages.optout import header_opt_out, meta_opt_out
from data.schema import PageStatus
from data.urls.canonical import unwrapped

NOT_MODIFIED = 304

WhyBlocked = Callable[[str], str | None]
"""Why the domain or file type of a redirect's target is blocked; None if it is not."""


class Known(NamedTuple):
    """A page that an earlier refresh fetched: its validators, and where its payload is."""

    etag: str | None
    last_modified: str | None
    payload_digest: str
    content_type: str
    warc_file: str  # SNAPSHOT/FILE
    warc_offset: int
    fetched_ms: int

    def sha1(self) -> bytes:
        return base64.b32decode(self.payload_digest.removeprefix("sha1:"))

    def conditions(self) -> dict[str, str]:
        """The headers of a conditional request (RFC 9110, section 13.1)."""
        conditions = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in conditions.items() if value}


def wants_html(http_status: int, headers: Any) -> bool:
    return http_status == 200 and media_type(headers.get("Content-Type", "")) in HTML_TYPES | {""}


def wants_success(http_status: int, _headers: Any) -> bool:
    return 200 <= http_status < 300


def status_of(http_status: int) -> PageStatus:
    """The status of an answer that is neither 200 nor a redirect."""
    exact = {404: PageStatus.NOT_FOUND, 410: PageStatus.GONE, 429: PageStatus.RATE_LIMITED}
    by_class = {4: PageStatus.CLIENT_ERROR, 5: PageStatus.SERVER_ERROR}
    return exact.get(http_status) or by_class.get(http_status // 100, PageStatus.HTTP_OTHER)


def page_body(answer: Answer, user_agent: str) -> bytes:
    """The body of an answer if it is a page that we may keep. Raises FetchError otherwise."""
    if answer.http_status != 200:
        raise FetchError(status_of(answer.http_status), str(answer.http_status), answer.http_status)
    content_type = answer.content_type()
    if answer.body is None:
        raise FetchError(PageStatus.NOT_HTML, media_type(content_type), 200)
    if not answer.body.decoded_bytes:
        raise FetchError(PageStatus.EMPTY_BODY, "", 200)
    body = answer.body.read()
    # Without a declared type, a body that begins like markup is HTML. The whole body decides, not its first packet.
    if not content_type and not body.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        raise FetchError(PageStatus.NOT_HTML, "no content type", 200)
    if body.lstrip().startswith(b"%PDF-"):
        raise FetchError(PageStatus.NOT_HTML, "begins as a PDF", 200)
    if begins_as_compressed(body):
        raise FetchError(PageStatus.BAD_ENCODING, "compressed in a way that no header names", 200)
    refusal = header_opt_out(answer.headers, user_agent) or meta_opt_out(body, user_agent)
    if refusal is not None:
        raise FetchError(*refusal, 200)
    return body


def require_no_opt_out(answer: Answer, user_agent: str) -> None:
    """Raises FetchError if the headers of a 304 forbid the use of the page."""
    refusal = header_opt_out(answer.headers, user_agent)
    if refusal is not None:
        raise FetchError(*refusal, answer.http_status)


def redirect_target(answer: Answer, seen: Sequence[str], max_redirects: int, block_reason: WhyBlocked) -> str:
    """The URL to go on with; ``seen`` holds the URLs so far. Raises FetchError if the link ends here."""
    code = answer.http_status
    location = answer.headers.get("Location")
    if location is None:
        raise FetchError(PageStatus.REDIRECT_BAD, "no Location", code)
    target = resolve_redirect(answer.url, location.strip())
    try:
        if target is None:
            raise ValueError
        target = unwrapped(target) or target  # the original of a copy, not the copy
    except ValueError as error:
        raise FetchError(PageStatus.REDIRECT_BAD, "Location is not a URL that can be fetched", code) from error
    blocked = block_reason(target)
    if blocked is not None:
        raise FetchError(PageStatus.REDIRECT_BAD, blocked, code)
    if target in seen:
        raise FetchError(PageStatus.REDIRECT_LOOP, target, code)
    if len(seen) > max_redirects:
        raise FetchError(PageStatus.REDIRECT_LIMIT, target, code)
    return target
