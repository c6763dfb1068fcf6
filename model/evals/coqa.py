"""``paper/coqa``: answers in a conversation about a text (CoQA's development set), as in the GPT-2 paper (section 3.5).

Known: "Greedy decoding from GPT-2 when conditioned on a document, the history of the associated conversation, and a
final token A:" has an F1 of 55 (1542M).

Not known, and our choice:

- How the context is written: the story, a blank line, then ``Q: question`` and ``A: answer`` on lines of their own.
- Whose answers the history has: the conversation's own (the first reference), as in CoQA's definition of the task,
  where the history is given. So a wrong answer does not spoil the next questions.
- Where an answer ends: at the first line break, at end-of-text, or after ``MAX_NEW_TOKENS`` tokens.
- What is cut if the context is too short: its beginning, so the story loses its first words. Counted in ``truncated``.

F1 is CoQA's (model/evals/answers.py), averaged over questions, overall and by domain; stories are the clusters of the
standard error. ``exact_match`` leaves references out in
the same way. Baselines answer "yes" or "no" to all.

``limit`` counts stories.
"""

from __future__ import annotations

from data.evalsets.coqa import Conversation, read_coqa
from model.evals import stats
from model.evals.answers import coqa_credit, exact_match
from model.evals.heldout import choose
from model.evals.lambada import ALL
from model.evals.task import MIN_CLUSTERS, SCORES, Subject, Task, require_clusters, result
from model.evals.writing import first_line, has_line, prompts_of

SET = "coqa"
MAX_NEW_TOKENS = 48  # the longest reference of the first 800 questions has 33


def contexts(conversation: Conversation) -> list[str]:
    """What the model reads before it answers each question."""
    found = []
    text = f"{conversation.story.strip()}\n\n"
    for question, answers in zip(conversation.questions, conversation.answers, strict=True):
        text += f"Q: {question.strip()}\nA:"
        found.append(text)
        text += f" {answers[0].strip()}\n"
    return found


def run(subject: Subject) -> SCORES:
    every = read_coqa(subject.files[SET])
    subject.check_count(SET, len(every))
    chosen = [every[i] for i in sorted(choose([f"coqa/{one.name}" for one in every], subject.limit))]
    turns = [(one, i) for one in chosen for i in range(len(one.questions))]
    stories = [one.name for one, _ in turns]
    require_clusters(stories, "questions")
    texts = [text for one in chosen for text in contexts(one)]
    written = subject.write(prompts_of(texts), MAX_NEW_TOKENS, has_line)
    answers = [first_line(one.text) for one in written]
    references = [one.answers[i] for one, i in turns]
    earned = [coqa_credit(answer, of_one) for answer, of_one in zip(answers, references, strict=True)]
    exact = [coqa_credit(answer, of_one, exact_match) for answer, of_one in zip(answers, references, strict=True)]
    for (one, i), answer, completion, credit in zip(turns, answers, written, earned, strict=True):
        subject.keep(
            f"{one.name}/{i + 1}",
            document=one.name,
            f1=credit,
            text=one.questions[i],
            answer=one.answers[i][0],
            prediction=answer,
            domain=one.domain,
            log_prob=sum(completion.log_probs),
            n_dropped=completion.n_dropped,
        )
    return result(
        subject,
        "f1",
        {"f1": stats.mean(earned, stories), "exact_match": stats.accuracy(exact, stories)},
        len(turns),
        {
            f"always_{word}": stats.mean([coqa_credit(word, of_one) for of_one in references], stories)
            for word in ("yes", "no")
        },
        unit="question",
        documents=len(chosen),
        available=sum(len(one.questions) for one in every),
        by_domain=_by_domain(earned, stories, [one.domain for one, _ in turns]),
        ended_by_length=sum(one.end == "length" for one in written),
    )


def _by_domain(earned: list[float], stories: list[str], domains: list[str]) -> dict[str, dict[str, float | None]]:
    """F1 by domain; no standard error of a domain with a single story."""
    found: dict[str, dict[str, float | None]] = {}
    for domain in dict.fromkeys(domains):
        at = [i for i, of_one in enumerate(domains) if of_one == domain]
        values, clusters = [earned[i] for i in at], [stories[i] for i in at]
        stderr = stats.mean(values, clusters).stderr if len(set(clusters)) >= MIN_CLUSTERS else None
        found[domain] = {"f1": sum(values) / len(values), "stderr": stderr, "n": len(values)}
    return found


TASK = Task("paper/coqa", 1, SET, ALL, 512, run)
