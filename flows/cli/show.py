"""What a person sees on standard output: tables of the results."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from data.lake.manifest import SPLITS
from data.schema import STATUSES, SelectStatus
from flows.cli.duplicates import side_by_side
from flows.cli.explain import score_line
from flows.progress import duration, number, size
from model.events import to_json

if TYPE_CHECKING:  # these modules import Prefect or torch, which takes seconds
    from data.duplicates import DuplicatesFound, JudgedDocument, KeptDocument
    from data.exports.corpus import ExportedCorpus
    from flows.cli.corpus import OverlapResult
    from flows.cli.demo import DemoResult
    from flows.cli.doctor import Checks
    from flows.cli.dryrun import RefreshPlan, TrainPlan
    from flows.cli.status import StageState, Status
    from flows.refresh import RefreshResult
    from flows.services import Addresses
    from flows.settings import Settings
    from model.compare import Comparison
    from model.events import Ablation, EvalResult, TaskScore, TrainSummary

ALSO_SHOWN = ("accuracy", "perplexity", "bits_per_byte", "nats_per_token")  # of a score, after its main metric
CONTROL = "control_accuracy"
FEW = 3  # missing tasks that get a line each
SHOWN_CHARS = 20_000  # of each text that `webtext duplicates` shows
PLAIN_WIDTH = 120  # columns, if standard output is not a terminal

console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)


def funnel(result: RefreshResult) -> None:
    """The stages of a refresh, and why rows were lost."""
    table = _table(f"Funnel of {result.snapshot}", "stage", "in", "out", "lost, and why", "time")
    for stage, summary in result.stages.items():
        time = "found done" if summary.skipped else f"{summary.seconds:.0f} s"
        table.add_row(stage, f"{summary.rows_in:,}", f"{summary.rows_out:,}", summary.lost() or "nothing", time)
    console.print(table)
    tokens = result.stages["tokens"]
    if "train_docs" in tokens.extra:
        for split in SPLITS:
            docs, n_tokens, n_bytes = (tokens.extra[f"{split}_{what}"] for what in ("docs", "tokens", "bytes"))
            console.print(f"{split}: {docs:,} documents, {n_tokens:,} tokens, {n_bytes:,} bytes of text")
    console.print(f"token digest: {tokens.digest}")


def training(result: TrainSummary) -> None:
    """Both ends of the training curve, and the cost of the run."""
    table = _table(f"Training of {result.run}", "what", "value", "")
    losses = f"{number(result.first_loss)} -> {number(result.train_loss)}"
    nats = "nats per token"
    table.add_row("training loss, first step -> mean of the last 20", losses, nats)
    table.add_row("validation loss at the end", number(result.val_loss), nats)
    table.add_row("unigram entropy of the training tokens", number(result.unigram_entropy), nats)
    table.add_row("steps", f"{result.steps:,}", "")
    table.add_row("tokens seen", number(result.tokens_seen), f"{number(result.epochs)} epochs")
    table.add_row("throughput", number(result.tokens_per_s), "tokens/s")
    table.add_row("model FLOP utilisation (MFU)", f"{result.mfu:.1%}", f"of the peak, {result.peak}")
    table.add_row("peak memory per process", size(result.memory_mb * 1e6), "")
    if result.steps_left_out:
        table.add_row("steps left out", f"{len(result.steps_left_out)}", "they diverged; see failure-*.json")
    console.print(table)
    if result.skipped:
        console.print("The run was finished before: nothing was trained. To continue it, ask for more --steps.")
    console.print(f"checkpoint: {result.checkpoint}")
    if result.mlflow_run_id:
        console.print(f"MLflow run: {result.mlflow_run_id}")


def exported(result: ExportedCorpus) -> None:
    """What an export wrote."""
    for split in SPLITS:
        console.print(f"{split}: {result.documents[split]:,} documents, {result.tokens[split]:,} tokens")
    console.print(
        f"{result.directory}: {','.join(result.snapshots)} as {result.format}, {len(result.files):,} files, "
        f"{size(sum(result.files.values()))}"
    )


def overlap(result: OverlapResult) -> None:
    """The shares of the evaluation sets, as table 6 of the paper."""
    title = f"8-grams of evaluation sets in {','.join(result.snapshots)}"
    table = _table(title, "set", "8-grams", "in the corpus", "in its training set", "documents with one")
    for one in result.sets:
        own = "not measured" if one.training_share is None else f"{one.training_share:.2%}"
        table.add_row(one.evalset, f"{one.n_grams:,}", f"{one.share:.2%}", own, f"{one.documents:,}")
    console.print(table)
    for name, counts in result.variants.items():
        console.print(f"{name}: {counts['documents']:,} documents; {counts['contaminated']:,} left out as contaminated")
    console.print(f"{result.documents:,} training documents searched; details in {result.dataset}")


def scores(result: EvalResult) -> None:
    """The zero-shot scores beside the best trivial baselines, then a line for each that says what it means."""
    columns = ("task", "metric", "score", "95 % interval", "n", "best trivial baseline", "beyond it")
    has_control = any(CONTROL in score.values for score in result.scores.values())
    table = _table(f"Zero-shot scores of {result.model}", *columns, *(["with another context"] if has_control else []))
    for task, score in result.scores.items():
        for metric in dict.fromkeys([score.metric, *ALSO_SHOWN]):
            if metric not in score.values:
                continue
            low, high = score.intervals[metric]
            row = [task, metric, number(score.values[metric]), f"{number(low)} .. {number(high)}"]
            if metric == score.metric:
                row += [*_against_trivial(score), *([number(score.values[CONTROL])] if CONTROL in score.values else [])]
            table.add_row(*row)
    console.print(table)
    without_files = [task for task, why in result.missing.items() if why.startswith("needs a file ")]
    if len(without_files) > FEW:
        console.print(
            f"not scored, without their official files: {', '.join(without_files)}; get them with "
            "`webtext eval --fetch`",
            soft_wrap=True,
        )
    for task, why in result.missing.items():
        if task not in without_files or len(without_files) <= FEW:
            console.print(f"not scored: {task}: {why}", soft_wrap=True)
    if result.promotion is not None:
        verdict = "champion" if result.promotion.is_champion else "not the champion"
        console.print(f"{verdict}: {result.promotion.reason}", soft_wrap=True)
    console.print("What the scores mean:")
    for task, score in result.scores.items():
        console.print(f"  {score_line(task, score)}", soft_wrap=True)


def ablation(result: Ablation) -> None:
    """A task's score by every combination of its choices, and the published numbers that these may explain."""
    names = list(result.rows[0].choices)
    notes = list(dict.fromkeys(row.published for row in result.rows if row.published))
    title = f"{result.task} of {result.model} by its choices"
    table = _table(title, *names, result.metric, "95 % interval", "n", "published")
    for row in result.rows:
        score = ("", "not measured", "")
        if row.interval is not None:
            low, high = row.interval
            score = (number(row.value), f"{number(low)} .. {number(high)}", f"{row.n:,}")
        table.add_row(*row.choices.values(), *score, f"({notes.index(row.published) + 1})" if row.published else "")
    console.print(table)
    for index, note in enumerate(notes, start=1):
        console.print(f"({index}) {note}", soft_wrap=True)
    for missing in dict.fromkeys(row.missing for row in result.rows if row.missing):
        console.print(f"not measured: {missing}", soft_wrap=True)


def _against_trivial(score: TaskScore) -> tuple[str, ...]:
    """``n``, the best trivial baseline, and whether the whole interval is on its better side."""
    if score.best_baseline is None:
        return f"{score.n:,}", "", ""
    value = score.baselines[score.best_baseline].value
    low, high = score.interval
    is_beyond = high < value if score.lower_is_better else low > value
    return f"{score.n:,}", f"{number(value)} ({score.best_baseline})", "yes" if is_beyond else "no"


def comparison(result: Comparison) -> None:
    """Two runs beside each other: the difference with its interval and p, and who is better if p is below 0.05."""
    a, b = result.a, result.b
    title = f"{a.run} (step {a.step:,}) and {b.run} (step {b.step:,})"
    columns = ("task", "metric", a.run, b.run, "difference", "95 % interval", "p", "better", "items")
    table = _table(title, *columns)
    for task, one in result.tasks.items():
        low, high = one.interval
        p = f"{one.p:.4f}"
        values = (number(one.a), number(one.b), f"{one.difference:+.4g}", f"{low:+.4g} .. {high:+.4g}", p)
        better = {"a": a.run, "b": b.run, None: "neither"}[one.better]
        table.add_row(task, one.metric, *values, better, f"{one.items:,}")
    console.print(table)
    for task, one in result.tasks.items():
        for spread in dict.fromkeys(spread for spread in (one.spread_a, one.spread_b) if spread):
            console.print(
                f"{task}: {number(spread.mean)} with a standard deviation of {number(spread.std)} over the seeds of "
                f"{', '.join(spread.runs)}",
                soft_wrap=True,
            )
        for note in one.notes:
            console.print(f"{task}: {note}", soft_wrap=True)
    for task, why in result.refused.items():
        console.print(f"not compared: {task}: {why}", soft_wrap=True)


def demo(result: DemoResult, settings: Settings) -> None:
    """Everything the demo made, and how to look at it."""
    funnel(result.refresh)
    training(result.train)
    scores(result.eval)
    table = _table("Where the results are", "what", "where")
    for what, where in result.where.items():
        table.add_row(what, where)
    console.print(table)
    console.print("Look at it:  webtext ui      the Prefect runs and the MLflow curves in a browser")
    console.print("             webtext report  one HTML page with the funnel, the plots and the tables")
    console.print("             webtext sample --run demo --prompt 'The array is'")
    console.print(f"{'Found done' if result.skipped else 'Done'} in {result.seconds:.0f} s; lake {settings.lake}")


def plan(result: RefreshPlan) -> None:
    """What a refresh would fetch."""
    meanings = _meanings("links")
    table = _table("What a refresh would do", "links", "count", "what it means")
    for status, count in result.links.by_status.items():
        table.add_row(status, f"{count:,}", meanings[status])
    console.print(table)
    largest = ", ".join(f"{domain} {count:,}" for domain, count in result.largest_domains.items())
    console.print(f"{result.domains:,} domains; the largest: {largest or 'none'}")
    console.print(f"at least {result.least_hours} hours: the links of the largest domain times --host-delay")


def training_plan(result: TrainPlan) -> None:
    """A training run's settings and size, and what it needs on one GPU and on eight."""
    settings({name: to_json(getattr(result, name)) for name in ("preset", "model", "training", "size")})
    table = _table("Memory per process, in GB, and time", "", *(f"GPUs: {n}" for n in result.gpus))
    gpus = list(result.gpus.values())
    for kind, label in (("plain", ""), ("recompute", " with recompute=true")):
        table.add_row(f"micro-batch{label}", *(str(gpu.micro_batch_size[kind]) for gpu in gpus))
        for part in gpus[0].memory[kind]:
            if kind == "plain" or part in ("activations", "total"):
                table.add_row(part + label, *(f"{gpu.memory[kind][part] / 1e9:,.2f}" for gpu in gpus))
    table.add_row(
        f"time at {result.assumed_mfu:.0%} of the peak of A100s", *(duration(gpu.a100_hours * 3600) for gpu in gpus)
    )
    console.print(table)
    for n, why in result.impossible.items():
        console.print(f"not on {n} GPUs: {why}")
    for note in result.notes:
        console.print(f"note: {note}", soft_wrap=True)
    if result.compile_s is not None:
        console.print(f"compiling: {result.compile_s:.0f} s in the first step, measured here")
    chosen = f"the largest micro-batch for {result.card}"
    console.print(f"Estimates with {'this' if result.training.micro_batch_size != 'auto' else chosen}")


def settings(values: dict[str, Any]) -> None:
    """Names and values, nested ones indented."""
    for name, value in values.items():
        if isinstance(value, dict):
            console.print(f"{name}")
            for inner, inner_value in value.items():
                console.print(f"  {inner:<24} {number(inner_value)}")
        else:
            console.print(f"{name:<26} {number(value)}")


def why(found: list[dict[str, Any]]) -> None:
    """One block per snapshot: the URL's outcome at each stage, with the details that are known."""
    for entry in found:
        arrow = f", redirected to {entry['redirected_to']}" if "redirected_to" in entry else ""
        console.print(f"{entry['snapshot']}: {entry['canonical_url']}{arrow}", soft_wrap=True)
        for stage, fields in entry["stages"].items():
            rest = ", ".join(f"{k} {v}" for k, v in fields.items() if k != "status" and v not in (None, ""))
            meaning = _meanings(stage)[fields["status"]]
            console.print(
                f"  {stage:<7} {fields['status']}: {meaning}" + (f" ({rest})" if rest else ""), soft_wrap=True
            )


def duplicates(result: DuplicatesFound) -> None:
    """One block per judgement: the reason, the kept document, and both texts or what the document displaced."""
    for document in result.documents:
        reason = f" ({document.reason})" if document.reason else ""
        console.print(f"{document.snapshot}: {document.url}", soft_wrap=True)
        console.print(f"  doc_id  {document.doc_id}, karma {document.karma}")
        console.print(f"  {document.status}: {_meanings('select')[document.status]}{reason}", soft_wrap=True)
        if document.kept is not None and document.text is not None:
            _kept(document.kept, document.text, document.ngram)
        elif document.n_displaced:
            _displaced(document)
        elif document.status == SelectStatus.OK:
            console.print("  no document was dropped because of it")
    for snapshot in result.not_judged:
        console.print(f"{snapshot}: not judged yet; its select stage is not published")


def _kept(kept: KeptDocument, text: str, ngram: int) -> None:
    where = f"  kept    {kept.url} of {kept.snapshot}, doc_id {kept.doc_id}, karma {kept.karma}"
    console.print(where, soft_wrap=True)
    console.print(f"  Jaccard index of their {ngram}-grams: {kept.jaccard:.4f}")
    table = _table("", "dropped", "kept")
    for row in side_by_side(text[:SHOWN_CHARS], kept.text[:SHOWN_CHARS], has_styles=console.is_terminal):
        table.add_row(*row)
    console.print(table)
    if max(len(text), len(kept.text)) > SHOWN_CHARS:
        console.print(f"  These are the first {SHOWN_CHARS:,} characters of each; --json has the whole texts.")


def _displaced(document: JudgedDocument) -> None:
    title = f"{document.n_displaced:,} documents were dropped because this one was kept"
    table = _table(title, "snapshot", "URL", "doc_id", "outcome")
    for other in document.displaced:
        outcome = f"{other.status}: {other.reason}" if other.reason else other.status
        table.add_row(other.snapshot, other.url, other.doc_id, outcome)
    console.print(table)
    if document.n_displaced > len(document.displaced):
        console.print(f"  and {document.n_displaced - len(document.displaced):,} more")


def status(result: Status) -> None:
    table = _table(f"Snapshots in {result.lake}", "snapshot", "links", "pages", "text", "select", "tokens")
    for name, stages in result.snapshots.items():
        table.add_row(name, *(_stage_cell(stages.get(stage)) for stage in STATUSES))
    console.print(table)
    runs = _table("Runs", "run", "state", "steps", "val loss", "checkpoints", "scores")
    for name, run in result.runs.items():
        counts = (str(len(run.checkpoints)), str(len(run.scores)))
        runs.add_row(name, run.state, number(run.steps), number(run.val_loss), *counts)
    console.print(runs)
    for name, server in result.servers.items():
        console.print(f"{name:<8} {server.state} {server.url or ''}")


def servers(result: Addresses) -> None:
    """Addresses for a browser, and the environment of the ``prefect`` and ``mlflow`` commands."""
    console.print(f"Prefect  {result.prefect}")
    console.print(f"MLflow   {result.mlflow}")
    console.print("for the prefect and mlflow commands:")
    for name, value in result.environment.items():
        console.print(f"  export {name}={value}")


def doctor(result: Checks) -> None:
    marks = {"good": "[green]good[/]", "note": "[yellow]note[/]", "bad": "[red]bad [/]"}
    for check in result.checks:
        line = Text.from_markup(marks[check.state]).append(f"  {check.what}: {check.detail}")
        console.print(line, soft_wrap=True)


def _meanings(stage: str) -> dict[str, str]:
    return {status.value: str(status.__doc__) for status in STATUSES[stage]}


def _stage_cell(stage: StageState | None) -> str:
    if stage is None:
        return ""
    return f"{stage.rows_out:,}" if stage.state == "done" else f"{stage.parts_sealed} parts"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
