from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from lxml.html import document_fromstring

from data.config import EXTRACTOR
from data.errors import InputError
from data.text import choice
from data.text.blocks import BIT, Block, blocks_of
from data.text.extract import extract, main_text, parse, propose
from data.text.facts import facts_of
from data.text.features import key_of, measure, votes_of
from data.text.trees import Trees

PROSE = "The ferry that links the two halves of the town left the pier at nine and came back in the evening"


def blocks(body: str) -> list[Block]:
    return blocks_of(document_fromstring(f"<html><head><title>T</title></head><body>{body}</body></html>"))


def texts(body: str) -> list[tuple[str, str]]:
    return [(block.element, block.text) for block in blocks(body)]


def test_a_block_ends_where_a_browser_begins_a_line() -> None:
    assert texts("Start <b>bold</b> on<p>One <a href='/'>two</a>\n three</p>Tail<br>after<ul><li>A<li>B</ul>") == [
        ("body", "Start bold on"),
        ("p", "One two three"),
        ("body", "Tail"),
        ("br", "after"),
        ("li", "A"),
        ("li", "B"),
    ]
    assert texts("<pre>if a:\n    b()\n</pre>") == [("pre", "if a:\n    b()")]


def test_what_no_reader_sees_is_no_block_but_noscript_is() -> None:
    body = "<script>var a</script>x<style>b</style>y<svg><text>c</text></svg>z<select><option>d</option></select>"
    assert texts(f"{body}<!-- e --><noscript><p>A post</p></noscript>") == [("body", "xyz"), ("p", "A post")]


def test_a_block_knows_what_it_stands_in() -> None:
    found = blocks(
        "<nav class='mainMenu'><a href='/'>Home</a></nav>"
        "<main><div class='post-content'><p>One</p><p>Two</p></div><div class=sidebar hidden><p>Three</p></div></main>"
        "<table><tr><td>4</td><td>5</td></tr><tr><td>6</td></tr></table>"
    )
    home, one, two, three, four, five, six = found
    assert (home.link_chars, home.n_links, one.link_chars) == (4, 1, 0)
    assert home.own & BIT["nav"]
    assert home.own & BIT["main"]  # from mainMenu
    assert one.marks & BIT["content"]
    assert one.marks & BIT["<main>"]
    assert not one.own & BIT["content"]
    assert three.marks & BIT["not shown"]
    assert three.marks & BIT["side"]
    assert one.parent == two.parent != three.parent
    assert one.grandparent == three.grandparent
    assert one.place == two.place != three.place
    assert (one.row, four.row == five.row != six.row) == (0, True)


def test_cells_of_a_row_share_a_line_and_items_are_marked() -> None:
    table = "<table><tr><th>Port</th><th>Time</th></tr><tr><td>North</td><td>9</td></tr></table>"
    assert choice.text_of(blocks(f"<p>Timetable</p>{table}<ul><li>daily</li></ul>")) == (
        "Timetable\nPort | Time\nNorth | 9\n- daily"
    )


def test_the_kept_blocks_have_the_greatest_expected_f1() -> None:
    rng = np.random.default_rng(0)

    def expected(words: np.ndarray, chances: np.ndarray, keep: Sequence[bool]) -> float:
        kept = np.array(keep)
        return 2 * (words * chances)[kept].sum() / (1000 * words[kept].sum() + (words * chances).sum())

    for _ in range(50):
        words, chances = rng.integers(1, 60, 8), rng.integers(0, 1000, 8)
        best = max(expected(words, chances, keep) for keep in itertools.product((False, True), repeat=8) if any(keep))
        assert expected(words, chances, choice.best(words, chances).tolist()) == pytest.approx(best)


def test_copies_and_blocks_that_hold_others_are_repetitions() -> None:
    long = [" ".join(f"word{k}x{j}" for j in range(40)) for k in range(3)]
    paragraphs = "".join(f"<p>{text}</p>" for text in (*long, long[0]))
    found = blocks(f"{paragraphs}<div>{' '.join(long)}</div><p>Short</p><p>Short</p>")
    repeats = choice.repeated(found, [key_of(block.text) for block in found])
    assert repeats.tolist() == [False, False, False, True, True, False, False]


def test_votes_say_how_much_another_text_has_of_a_block() -> None:
    half = "abcdefghij" * 6 + "klmnopqrst" * 6
    keys = [key_of(text) for text in ("A short line", PROSE, half, "ly", "short", "")]
    text = f"A short line.\n{PROSE.upper()}, it says.\n{half[:60]}"
    assert votes_of(keys, text).tolist() == [100, 100, 50, 0, 50, 0]


def test_facts_have_the_same_names_for_any_page() -> None:
    rich = (
        '<html class="qa-page"><head><meta property="og:type" content="article"><meta name=generator content="phpBB 3">'
        '<script type="application/ld+json">{"@type": ["QAPage"]}</script></head><body class="single-post"><pre></pre>'
        '<div itemscope itemtype="https://schema.org/Question"></div></body></html>'
    )
    found = facts_of(document_fromstring(rich), "https://forum.example/t/a-long-title/12345?page=2")
    poor = facts_of(document_fromstring("<p>x</p>"), "http://a.example/")
    assert list(found) == list(poor)
    names = {"og article", "type QAPage", "item Question", "generator forum", "class single", "url forum", "url query"}
    assert {name for name, value in found.items() if value == 1} >= names
    assert (found["url depth"], found["url dashes"], found["elements pre"], poor["og none"]) == (3, 0, 1, 1)


def test_trees_add_up_the_leaves_that_a_row_ends_in() -> None:
    arrays = {
        "t.feature": [[0, 0, 1, 0, 0], [1, 0, 0, 0, 0]],
        "t.threshold": [[5, 0, 7, 0, 0], [3, 0, 0, 0, 0]],
        "t.left": [[1, 1, 3, 3, 4], [1, 1, 2, 3, 4]],
        "t.right": [[2, 1, 4, 3, 4], [2, 1, 2, 3, 4]],
        "t.leaf": [[0, 10, 0, 20, 30], [0, 100, 200, 0, 0]],
        "t.depth": 2,
    }
    rows = np.array([[5, 3], [6, 7], [6, 8]])
    trees = Trees.read(arrays, "t")
    assert trees.sums(rows).tolist() == [110, 220, 230]
    assert trees.sums(np.tile(rows, (2_000, 1))).tolist() == [110, 220, 230] * 2_000
    assert trees.sums(rows[:0]).tolist() == []


def test_the_settings_name_the_model_that_is_shipped() -> None:
    digest = hashlib.sha256(Path(choice.MODEL).read_bytes()).hexdigest()
    assert f"blocks {digest[:16]}" == EXTRACTOR


def test_a_damaged_or_missing_model_stops_the_stage(tmp_path: Path) -> None:
    content = bytearray(choice.MODEL.read_bytes())
    content[100] ^= 1
    damaged = tmp_path / "blocks.npz"
    damaged.write_bytes(content)
    with pytest.raises(InputError, match=r"blocks\.npz: it is blocks [0-9a-f]{16}, not blocks .*install webtext again"):
        choice.Model.read(damaged)
    with pytest.raises(InputError, match=r"none\.npz: No such file.*install webtext again"):
        choice.Model.read(tmp_path / "none.npz")


def test_comments_stay_where_they_are_the_content() -> None:
    posts = "".join(
        f"<div class='comment' id='c{k}'><div class='comment-author'><a href='/u/{k}'>user{k}</a></div>"
        f"<div class='comment-body'><p>{PROSE}, says passenger {k}, who waited since dawn.</p></div></div>"
        for k in range(12)
    )
    page = f"<html><head><title>Is the ferry late?</title></head><body><h1>Is the ferry late?</h1>{posts}</body></html>"
    found = extract(page.encode(), None, "https://forum.example/threads/is-the-ferry-late.12")
    assert found.text is not None
    assert [f"passenger {k}," in found.text for k in range(12)] == [True] * 12


def test_a_page_changes_neither_its_tree_nor_its_rows() -> None:
    body = f"<nav><a href='/'>Home</a></nav><p>{PROSE}</p><p>{PROSE} 2</p>"
    html = f"<html><head><title>T</title></head><body>{body}</body></html>"
    tree, _ = parse(html)
    first, second = propose(html, tree, "http://a.example/"), propose(html, tree, "http://a.example/")
    assert first.rows is not None
    assert second.rows is not None
    assert first.rows.tolist() == second.rows.tolist()
    votes = dict.fromkeys(("trafilatura", "resiliparse"), np.zeros(len(first.blocks), np.int64))
    _, names = measure(first.blocks, first.keys, votes, facts_of(tree, "http://a.example/"))
    assert len(set(names)) == len(names) == first.rows.shape[1]
    assert main_text(first) == main_text(second)


@pytest.mark.parametrize(
    "body",
    [
        f"<table><tr><td colspan='9007199254740991'>{PROSE}</td><td rowspan='-1'>x</td></tr></table>",
        "<table><tr><td>cell</td></tr></table>" * 10_000,
        "<p>" + PROSE * 20_000 + "</p>",
        f"<p>{PROSE}</p>" * 10_000,
        "<div><i>" * 400 + PROSE,
    ],
    ids=["colspan", "10,000 tables", "one paragraph of 2 MB", "a paragraph 10,000 times", "deep"],
)
def test_odd_pages_have_an_outcome(body: str) -> None:
    found = extract(
        f"<html><head><title>T</title></head><body>{body}</body></html>".encode(), None, "http://a.example/"
    )
    assert found.status in ("ok", "empty")
    assert found.reason is None
