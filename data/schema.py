"""Names that pass between the stages: the stages, their outcomes and their columns.

This is the only place that lists the statuses and what the columns mean. docs/statuses.md and docs/columns.md are
printed from here; a test compares them.
"""

from __future__ import annotations

from enum import StrEnum

import pyarrow as pa

STAGES = ("links", "pages", "text", "select", "tokens")
"""In the order they run."""

DATASETS = (*STAGES, "overlap")
"""Folders of the lake whose datasets have a manifest and are made part by part."""


class Status(StrEnum):
    """One outcome. A member's value is what the ``status`` column holds; its docstring is for people."""

    def __new__(cls, value: str, doc: str) -> Status:
        member = str.__new__(cls, value)
        member._value_ = value
        member.__doc__ = doc
        return member


class LinkStatus(Status):
    """What became of one line of a link source. ``rows_in`` = lines read = sum of these."""

    OK = "ok", "kept: one row per distinct canonical URL"
    MERGED = "merged", "a further submission of a URL that has a row already (its score is in that row)"
    MALFORMED_LINE = "malformed_line", "the line is not a JSON object, or too long; the links report has its number"
    NOT_A_SUBMISSION = "not_a_submission", "a JSON object of another kind: a comment, a job, a poll, a page's text, ..."
    SELF_POST = "self_post", "a text post, or a file on the site's own hosts: no outbound link"
    NO_URL = "no_url", "the submission has no URL"
    BAD_URL = "bad_url", "not a URL that can be fetched: another scheme, no host, credentials inside, unparsable"
    OVER_18 = "over_18", "marked as not safe for work"
    DELETED = "deleted", "a story of Hacker News that its author deleted"
    DEAD = "dead", "a story of Hacker News that moderators or flags killed"
    LOW_KARMA = "low_karma", "the highest score of the URL's submissions is below min_karma"
    BLOCKED_DOMAIN = "blocked_domain", "the registrable domain is on the profile's or the user's block list"
    BLOCKED_EXTENSION = "blocked_extension", "the path ends like a file without an article (image, archive, ...)"


class PageStatus(Status):
    """What became of one kept link when it was fetched."""

    OK = "ok", "the whole HTML page was received and is in the WARC"
    ROBOTS_DISALLOWED = "robots_disallowed", "robots.txt forbids this path to our user agent"
    ROBOTS_UNREACHABLE = (
        "robots_unreachable",
        "robots.txt failed (5xx, 429, time-out, a bad redirect), which forbids all (RFC 9309)",
    )
    CRAWL_DELAY_TOO_LONG = "crawl_delay_too_long", "robots.txt asks for a delay above max_crawl_delay_s"
    OPT_OUT_X_ROBOTS_TAG = "opt_out_x_robots_tag", "the header X-Robots-Tag says noindex, noai, noml or none to us"
    OPT_OUT_META_ROBOTS = "opt_out_meta_robots", "a robots meta element of the page says noindex, noai, noml or none"
    OPT_OUT_CONTENT_SIGNAL = "opt_out_content_signal", "Content-Signal says ai-train=no, in robots.txt or a header"
    OPT_OUT_TDM = "opt_out_tdm", "the site reserves text and data mining (TDMRep: header, meta or tdmrep.json)"
    DNS_FAILURE = "dns_failure", "the host name does not resolve"
    CONNECT_FAILURE = "connect_failure", "the connection failed"
    TLS_FAILURE = "tls_failure", "the TLS handshake or the certificate failed"
    FORBIDDEN_ADDRESS = "forbidden_address", "the address is not public, or the port is not 80 or 443"
    TIMEOUT = "timeout", "the page took longer than total_timeout_s, or the server was silent too long"
    TOO_SLOW = "too_slow", "fewer than min_bytes_per_s after slow_after_s"
    HOST_FAILING = (
        "host_failing",
        "not fetched: the host failed breaker_failures times in a row, and again later",
    )
    PROTOCOL_ERROR = "protocol_error", "the answer is not valid HTTP, or was cut off"
    REDIRECT_LOOP = "redirect_loop", "a redirect leads back to a URL already seen for this link"
    REDIRECT_LIMIT = "redirect_limit", "more than max_redirects redirects"
    REDIRECT_BAD = "redirect_bad", "a redirect without a usable target (no Location, another scheme, blocked domain)"
    RATE_LIMITED = "rate_limited", "429, too many requests"
    NOT_FOUND = "not_found", "404, not found"
    GONE = "gone", "410, gone for good"
    CLIENT_ERROR = "client_error", "any other 4xx"
    SERVER_ERROR = "server_error", "5xx, a server error"
    HTTP_OTHER = "http_other", "any other status but 200"
    NOT_HTML = "not_html", "the content type is neither HTML nor XHTML"
    TOO_LARGE = "too_large", "more than max_wire_bytes were received"
    DECODED_TOO_LARGE = "decoded_too_large", "the body decompresses to more than max_decoded_bytes (a compression bomb)"
    BAD_ENCODING = "bad_encoding", "the body is in an encoding that was not asked for, or its data is broken"
    EMPTY_BODY = "empty_body", "200 with an empty body"
    DEFERRED = (
        "deferred",
        "left for the next refresh, which fetches it first; the reason names the limit",
    )


class TextStatus(Status):
    """What became of one fetched page when its text was extracted."""

    OK = "ok", "text was found"
    EMPTY = "empty", "no main text was found"
    UNDECODABLE = "undecodable", "the bytes are not text in the declared or a detected encoding"
    TIMEOUT = "timeout", "extraction used more than timeout_s of CPU time, in two processes"
    CRASHED = "crashed", "the page ended two extracting processes (memory limit, crash of a parser)"
    FAILED = "failed", "the extractor raised an error; the reason names it"


class SelectStatus(Status):
    """The verdict on one extracted text, in the order the rules apply."""

    OK = "ok", "selected for the corpus"
    NO_TEXT = "no_text", "the text stage found no text"
    WIKIPEDIA = "wikipedia", "the page is from Wikipedia, which WebText left out because benchmarks use it"
    TOO_SHORT = "too_short", "shorter than the profile allows; the reason names the rule, the value and the limit"
    TOO_LONG = "too_long", "longer than the profile allows"
    NOT_ENGLISH = "not_english", "the language identifier found another language than `language`, or is not sure enough"
    LOW_QUALITY = "low_quality", "a rule of the profile on words, lines or marks is broken (gopher, fineweb)"
    REPETITIVE = "repetitive", "too many repeated lines, paragraphs or n-grams (gopher, fineweb)"
    EXACT_DUPLICATE = "exact_duplicate", "the same text, apart from white space and case, as a document kept before"
    NEAR_DUPLICATE = (
        "near_duplicate",
        "the shingles' exact Jaccard index with a document kept before is at least `threshold`",
    )
    CONTAMINATED = (
        "contaminated",
        "it shares a long string with an evaluation set; only in variants made by `webtext overlap --decontaminate`",
    )


class TokenStatus(Status):
    """What became of one selected document when it was tokenized."""

    OK = "ok", "tokenized, in exactly one of train and val"


STATUSES: dict[str, type[Status]] = {
    "links": LinkStatus,
    "pages": PageStatus,
    "text": TextStatus,
    "select": SelectStatus,
    "tokens": TokenStatus,
}

_TIME = pa.timestamp("ms", tz="UTC")  # Parquet has no seconds

LINKS = pa.schema(
    [
        ("url", pa.string()),
        ("canonical_url", pa.string()),
        ("domain", pa.string()),
        ("source", pa.string()),
        ("karma", pa.int64()),
        ("karma_sum", pa.int64()),
        ("submission_ids", pa.list_(pa.string())),
        ("subreddits", pa.list_(pa.string())),
        ("submitted_at", _TIME),
        ("score_observed_at", _TIME),
        ("deferred_from", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
    ]
)
PAGES = pa.schema(
    [
        ("canonical_url", pa.string()),
        ("final_url", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("http_status", pa.int16()),
        ("payload_digest", pa.string()),
        ("content_type", pa.string()),
        ("warc_file", pa.string()),
        ("warc_offset", pa.int64()),
        ("etag", pa.string()),
        ("last_modified", pa.string()),
        ("archive", pa.string()),
        ("fetched_at", _TIME),
        ("domain", pa.string()),
        ("karma", pa.int64()),
    ]
)
TEXT = pa.schema(
    [
        ("doc_id", pa.binary(16)),
        ("url", pa.string()),
        ("domain", pa.string()),
        ("karma", pa.int64()),
        ("fetched_at", _TIME),
        ("title", pa.string()),
        ("date", pa.string()),
        ("kind", pa.string()),
        ("extractor", pa.string()),
        ("language", pa.string()),
        ("language_score", pa.float32()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("text", pa.string()),
        ("n_chars", pa.int32()),
        ("n_words", pa.int32()),
        ("n_gpt2_tokens", pa.int32()),
        ("n_sentences", pa.int32()),
        ("n_stop_words", pa.int32()),
        ("n_curly_brackets", pa.int32()),
        ("n_lorem_ipsum", pa.int32()),
        ("mean_word_length", pa.float32()),
        ("alpha_word_share", pa.float32()),
        ("hash_word_ratio", pa.float32()),
        ("ellipsis_word_ratio", pa.float32()),
        ("newline_word_ratio", pa.float32()),
        ("bullet_line_share", pa.float32()),
        ("ellipsis_line_share", pa.float32()),
        ("punctuated_line_share", pa.float32()),
        ("short_line_share", pa.float32()),
        ("duplicate_line_share", pa.float32()),
        ("duplicate_line_char_share", pa.float32()),
        ("duplicate_paragraph_share", pa.float32()),
        ("duplicate_paragraph_char_share", pa.float32()),
        *((f"top_{n}_gram_share", pa.float32()) for n in (2, 3, 4)),
        *((f"duplicate_{n}_gram_share", pa.float32()) for n in range(5, 11)),
    ]
)
SELECT = pa.schema(
    [
        ("doc_id", pa.binary(16)),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("duplicate_of", pa.binary(16)),
    ]
)
TOKENS = pa.schema(
    [
        ("doc_id", pa.binary(16)),
        ("tokens", pa.list_(pa.uint16())),
        ("n_tokens", pa.int32()),
    ]
)

SCHEMAS = {"links": LINKS, "pages": PAGES, "text": TEXT, "select": SELECT, "tokens": TOKENS}
"""The columns of each stage's published Parquet files."""

_KARMA = "the highest score of the link's submissions; null if no submission has one"
_OF_LINES = ", among the lines that are not blank, 0 to 1"
_IN_WORDS = ", among those of all words, 0 to 1"
_DOC_ID = "identifies the document: a hash of its canonical URL and its text"

MEANINGS: dict[str, dict[str, str]] = {
    "links": {
        "url": "the URL as it was submitted, from the submission with the highest score",
        "canonical_url": "the URL in its one spelling; unique in the snapshot",
        "domain": "the registrable domain of the canonical URL, or its IP address",
        "source": "the link source that holds the submission with the highest score",
        "karma": _KARMA,
        "karma_sum": "the sum of the scores of the link's submissions; null if no submission has one",
        "submission_ids": "the ids of the submissions, sorted",
        "subreddits": "the subreddits that the link was posted in, sorted; empty for Hacker News",
        "submitted_at": "the time of the first submission; null if unknown",
        "score_observed_at": "when the source read the score in `karma`; null if unknown",
        "deferred_from": "the snapshot that deferred the link to this one; null for a link of the sources",
        "status": "one of the [statuses of links](statuses.md#links)",
        "reason": "details of the status, such as the block rule; empty for `ok`",
    },
    "pages": {
        "canonical_url": "the link, as in links",
        "final_url": "the URL that was fetched last, after redirects",
        "status": "one of the [statuses of pages](statuses.md#pages)",
        "reason": "details of the status; empty for `ok`",
        "http_status": "the last HTTP status; null if there was no answer",
        "payload_digest": "`sha1:` and the base32 SHA-1 of the decoded body, as in the WARC; null without a page",
        "content_type": "the Content-Type header of the page",
        "warc_file": "the WARC file in this snapshot's folder, or SNAPSHOT/FILE where an earlier snapshot has the page",
        "warc_offset": "the byte offset of the WARC record that holds the page",
        "etag": "the ETag header, for conditional requests",
        "last_modified": "the Last-Modified header, for conditional requests",
        "archive": "NAME:YYYYMMDDhhmmss of the capture if the page is from a web archive; else null",
        "fetched_at": "when the page was received",
        "domain": "the registrable domain that the crawler asked last",
        "karma": _KARMA,
    },
    "text": {
        "doc_id": _DOC_ID,
        "url": "the canonical URL of the link",
        "domain": "the registrable domain of the URL that was fetched last",
        "karma": _KARMA,
        "fetched_at": "when the page was received",
        "title": "the title of the page; null if none was found",
        "date": "the publication date that the page names, YYYY-MM-DD; null if none was found",
        "kind": "article, collection, documentation, forum, listing, product or service; null if no block was found",
        "extractor": "what chose the text: `blocks`, or `trafilatura` if no block was found; null without text",
        "language": "the language of the text, an ISO 639-1 code; null without text",
        "language_score": "the confidence in the language, 0 to 1; null without text",
        "status": "one of the [statuses of text](statuses.md#text)",
        "reason": "details of the status; empty for `ok`",
        "text": "the main text of the page; null if the status is not `ok`",
        "n_chars": "characters of the text",
        "n_words": "words of the text, split at white space; in scripts without spaces, each character",
        "n_gpt2_tokens": "GPT-2 tokens of the text, without end-of-text",
        "n_sentences": "sentences, in lines of three words or more without JavaScript, cookies or terms of use",
        "n_stop_words": "how many of the eight words the, be, to, of, and, that, have, with are in the text",
        "n_curly_brackets": "opening curly brackets",
        "n_lorem_ipsum": "occurrences of `lorem ipsum`, in any case",
        "mean_word_length": "characters per word",
        "alpha_word_share": "words with a letter, among the words, 0 to 1",
        "hash_word_ratio": "hash marks per word",
        "ellipsis_word_ratio": "ellipses per word",
        "newline_word_ratio": "line ends per word",
        "bullet_line_share": f"lines that begin with a bullet{_OF_LINES}",
        "ellipsis_line_share": f"lines that end with an ellipsis{_OF_LINES}",
        "punctuated_line_share": f"lines that end with a mark that ends a sentence or a quotation{_OF_LINES}",
        "short_line_share": f"lines of fewer than 30 characters{_OF_LINES}",
        "duplicate_line_share": f"lines that repeat an earlier line{_OF_LINES}",
        "duplicate_line_char_share": "characters of such lines, among those of all lines, 0 to 1",
        "duplicate_paragraph_share": "paragraphs (between blank lines) that repeat an earlier one, among all, 0 to 1",
        "duplicate_paragraph_char_share": "characters of such paragraphs, among those of all paragraphs, 0 to 1",
        **{
            f"top_{n}_gram_share": f"characters of the most frequent sequence of {n} words{_IN_WORDS}"
            for n in (2, 3, 4)
        },
        **{
            f"duplicate_{n}_gram_share": f"characters of sequences of {n} words that occurred before{_IN_WORDS}"
            for n in range(5, 11)
        },
    },
    "select": {
        "doc_id": f"{_DOC_ID}; row k is row k of the text file of the same name",
        "status": "one of the [statuses of select](statuses.md#select)",
        "reason": "details of the status, such as the word count; empty for `ok`",
        "duplicate_of": "the `doc_id` of the document that it duplicates; null if it is not a duplicate",
    },
    "tokens": {
        "doc_id": _DOC_ID,
        "tokens": "the GPT-2 tokens of the document, the last one being end-of-text",
        "n_tokens": "the number of tokens, end-of-text included",
    },
}
"""What each column of SCHEMAS holds."""

VOLATILE = frozenset({"fetched_at", "warc_file", "warc_offset", "etag", "last_modified"})
"""Columns that differ between two runs over the same web; they stay out of every digest."""
