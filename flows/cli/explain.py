"""Results in words: what a score means, compared with the best trivial baseline, and why a URL is nowhere."""

from __future__ import annotations

from typing import Any

from data.errors import InputError
from data.lake.store import Lake
from data.schema import LinkStatus
from data.urls.blocklists import REDDIT_HOSTS
from data.urls.canonical import host_of, is_below
from flows.progress import number
from model.events import TaskScore

_LAST_WORD = "the model guesses the last word of {value} of"
_ANSWERS = "the model finds the right answer to {value} of the questions of"
_UNSURE = "the model is as unsure as if it chose each {unit} among {value} equally likely ones"

_OWN_HOSTS = REDDIT_HOSTS | {"news.ycombinator.com"}
_WITHOUT_ROW = {
    LinkStatus.OVER_18: "marked as not safe for work",
    LinkStatus.SELF_POST: "marked as a text post",
    LinkStatus.DELETED: "that was deleted",
    LinkStatus.DEAD: "that was killed by moderators or flags",
}

MEANINGS = {
    "heldout_ppl": f"on held-out documents {_UNSURE}",
    "heldout_lastword": f"{_LAST_WORD} held-out passages",
    "heldout_cloze": "the model finds the missing word, among ten, in {value} of held-out sentences",
    "heldout_order": "the model tells {value} of held-out sentences from the same with two words exchanged",
    "harness/lambada_openai": f"{_LAST_WORD} LAMBADA's passages",
    "paper/lambada": f"{_LAST_WORD} LAMBADA's passages, prepared as in the GPT-2 paper",
    "harness/lambada_standard": f"{_LAST_WORD} LAMBADA's passages in the authors' spelling",
    "paper/lambada_plain": f"{_LAST_WORD} LAMBADA's passages, from the authors' file without its artefacts",
    "paper/cbt_cn": "the model finds the missing noun, among ten, in {value} of the Children's Book Test",
    "paper/cbt_ne": "the model finds the missing name, among ten, in {value} of the Children's Book Test",
    "paper/winograd": "the model finds whom or what the pronoun means in {value} of Winograd's examples",
    "paper/wikitext2": f"on WikiText-2 {_UNSURE}",
    "paper/wikitext2_valid": f"on WikiText-2's validation text {_UNSURE}",
    "paper/coqa": "the model's answers share {value} of their words with people's answers in CoQA's conversations (F1)",
    "paper/cnndm": "the model's summaries of news have an average ROUGE of {value} with the highlights",
    "paper/cnndm_no_hint": "what the model writes after an article has an average ROUGE of {value} with its highlights",
    "paper/wmt14_en_fr": "the model's translations of news into French have {value} BLEU",
    "paper/wmt14_fr_en": "the model's translations of news from French have {value} BLEU",
    "paper/nq": "the model answers {value} of Natural Questions rightly, without a document",
    "paper/wikitext103": f"on WikiText-103 {_UNSURE}",
    "paper/ptb": f"on the Penn Treebank {_UNSURE}",
    "paper/1bw": f"on the One Billion Word Benchmark {_UNSURE}",
    "paper/enwik8": "the model needs {value} bits for each {unit} of Wikipedia's source",
    "paper/text8": "the model needs {value} bits for each {unit} of Wikipedia's text in small letters",
    "harness/hellaswag": f"{_ANSWERS} HellaSwag",
    "harness/arc_challenge": f"{_ANSWERS} ARC's challenge set",
    "harness/piqa": f"{_ANSWERS} PIQA",
    "harness/winogrande": f"{_ANSWERS} WinoGrande",
}
_OTHERS = {"accuracy": "the model is right in {value} of the examples", "perplexity": _UNSURE}  # by metric

BASELINES = {
    "most_frequent": "the passage's most frequent word",
    "most_frequent_capitalised": "the passage's most frequent capitalised word",
    "most_frequent_long": "the passage's most frequent long word",
    "chance": "at random",
    "latest": "the passage's latest content word",
    "most_frequent_in_context": "the choice that the context uses most",
    "source": "the sentence that is to be translated",
    "lead_3": "the article's first three sentences",
    "random_3": "three sentences of the article at random",
    "always_yes": "answering yes to everything",
    "always_no": "answering no to everything",
    "commonest_of_type": "the commonest answer to that type of question",
    "latest_in_context": "the choice that the context uses last",
    "longest": "the longest choice",
    "first_named": "what the text names first",
    "shortest": "the candidate with fewer tokens",
    "unigram_of_this_text": "knowing only how often each token occurs in this text",
    "heldout_ppl/unigram": "knowing only how often each token occurs in training",
    "heldout_lastword/unigram": "the commonest word of the training text",
    "heldout_cloze/unigram": "the choice that is commonest in the training text",
    "heldout_order/unigram": "by how often each token occurs in training",
}


def what_became_of(lake: Lake, url: str) -> list[dict[str, Any]]:
    """The entries of data/trace.py. Raises InputError, in words for this kind of URL, if there are none."""
    from data.trace import why  # imports the crawler's HTTP client, which the other commands need not wait for

    try:
        found = why(lake, url)
    except ValueError as error:
        raise InputError(
            f"{url}: {error}, so it is a bad URL: such lines of a source are only counted"
            + _counted(lake, LinkStatus.BAD_URL)
        ) from error
    if not found:
        raise InputError(f"{url}: {_why_nowhere(lake, url)}")
    return found


def _why_nowhere(lake: Lake, url: str) -> str:
    if is_below(host_of(url), _OWN_HOSTS) is not None:
        return "on the site's own hosts, so it is a self post: such lines of a source are only counted" + _counted(
            lake, LinkStatus.SELF_POST
        )
    words = "in no snapshot's links, and no link was redirected to it; `webtext status` lists the snapshots"
    for status, kind in _WITHOUT_ROW.items():
        if counted := _counted(lake, status):
            words += f". A submission {kind} leaves no row, it is only counted{counted}"
    return words


def _counted(lake: Lake, status: LinkStatus) -> str:
    """`` (over_18: 3 in 2026-10, 5 in 2026-11)``; empty if no snapshot counted any."""
    from data.trace import uncounted

    counts = ", ".join(f"{n:,} in {snapshot}" for snapshot, n in uncounted(lake, status).items())
    return f" ({status}: {counts})" if counts else ""


def score_line(task: str, score: TaskScore) -> str:
    """``heldout_lastword accuracy 0.044: the model guesses the last word of 4.4 % of held-out passages; ...``."""
    meaning = MEANINGS.get(task) or _OTHERS.get(score.metric, f"{score.metric} is {{value}}")
    unit = str(score.details.get("unit", "token"))
    line = f"{task} {score.metric} {number(score.value)}: " + meaning.format(
        value=_amount(score, score.value), unit=unit
    )
    if score.best_baseline is None:
        return f"{line}."
    name = score.best_baseline
    baseline = BASELINES.get(f"{task}/{name}") or BASELINES.get(name, f"the baseline {name}")
    amount = _amount(score, score.baselines[name].value)
    if score.metric == "accuracy":
        return f"{line}; always guessing {baseline} gets {amount}."
    better = "lower" if score.lower_is_better else "higher"
    return f"{line}; {baseline} gives {amount} ({better} is better)."


def _amount(score: TaskScore, value: float) -> str:
    return f"{100 * value:.1f} %" if score.metric in ("accuracy", "f1") else number(value)
