"""What a person sees on standard output: tables of the results."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from data.schema import STATUSES
from flows.progress import duration, size
from flows.settings import Settings

SHOWN_METRICS = ("accuracy", "perplexity", "bits_per_byte", "nats_per_token")
PLAIN_WIDTH = 120  # where there is no terminal to ask

console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)


def funnel(result: dict[str, Any]) -> None:
    """The stages of a refresh, each loss with its reason."""
    table = _table(f"Funnel of {result['snapshot']}", "stage", "in", "out", "lost, and why", "time")
    for stage, summary in result["stages"].items():
        lost = {status: count for status, count in summary["by_status"].items() if status != "ok"}
        reasons = ", ".join(f"{status} {count:,}" for status, count in sorted(lost.items(), key=lambda item: -item[1]))
        time = "found done" if summary["skipped"] else f"{summary['seconds']:.0f} s"
        table.add_row(stage, f"{summary['rows_in']:,}", f"{summary['rows_out']:,}", reasons or "nothing", time)
    console.print(table)
    extra = result["stages"]["tokens"]["extra"]
    if extra.get("train_docs") is not None:
        for split in ("train", "val"):
            docs, tokens = extra[f"{split}_docs"], extra[f"{split}_tokens"]
            console.print(f"{split}: {docs:,} documents, {tokens:,} tokens, {extra[f'{split}_bytes']:,} bytes of text")
    console.print(f"token digest: {result['stages']['tokens']['digest']}")


def training(result: dict[str, Any]) -> None:
    """The ends of a training curve."""
    table = _table(f"Training of {result['run']}", "what", "value", "")
    first, last = result["first_loss"], result["train_loss"]
    nats = "nats a token"
    rows: list[tuple[str, Any, str]] = [
        ("training loss, first step -> mean of the last 20", f"{_number(first)} -> {_number(last)}", nats),
        ("validation loss at the end", _number(result["val_loss"]), nats),
        ("unigram entropy of the training tokens", _number(result["unigram_entropy"]), nats),
        ("steps", f"{result['steps']:,}", ""),
        ("tokens seen", _number(result["tokens_seen"]), f"{_number(result['epochs'])} epochs"),
        ("throughput", _number(result["tokens_per_s"]), "tokens/s"),
    ]
    if "mfu" in result:  # not in the summaries of earlier versions
        rows.append(("model FLOP utilisation (MFU)", f"{result['mfu']:.1%}", f"of the peak, {result['peak']}"))
        rows.append(("most memory of a process", size(result["memory_mb"] * 1e6), ""))
    if result.get("steps_left_out"):
        rows.append(("steps left out", f"{len(result['steps_left_out'])}", "they diverged; see failure-*.json"))
    for row in rows:
        table.add_row(*row)
    console.print(table)
    if result["skipped"]:
        console.print("It was finished before: nothing was trained. A larger --steps goes on from there.")
    console.print(f"checkpoint: {result['checkpoint']}")
    if result.get("mlflow_run_id"):
        console.print(f"MLflow run: {result['mlflow_run_id']}")


def scores(result: dict[str, Any]) -> None:
    """The zero-shot table: each score with its interval, the best trivial baseline, and whether it is beyond that."""
    columns = ("task", "metric", "score", "95 % interval", "n", "best trivial baseline", "beyond it")
    table = _table(f"Zero-shot scores of {result['model']}", *columns)
    for task, score in result["scores"].items():
        for metric in SHOWN_METRICS:
            if metric not in score:
                continue
            low, high = score["intervals"].get(metric, (None, None))
            interval = "" if low is None else f"{_number(low)} .. {_number(high)}"
            row = [task, metric, _number(score[metric]), interval]
            table.add_row(*row, *(_against_trivial(score) if metric == score["metric"] else ()))
    console.print(table)
    for task, why in result.get("missing", {}).items():
        console.print(f"not scored: {task}: {why}", soft_wrap=True)


def _against_trivial(score: dict[str, Any]) -> tuple[str, ...]:
    """``n``, the best trivial baseline, and whether the whole interval is on its better side."""
    n, name = f"{score['n']:,}", score.get("best_baseline")
    if name is None:
        return (n,)
    value, (low, high) = score["baselines"][name]["value"], score["interval"]
    is_beyond = low > value if score["metric"] == "accuracy" else high < value
    return n, f"{_number(value)} ({name})", "yes" if is_beyond else "no"


def demo(result: dict[str, Any], settings: Settings) -> None:
    """Everything the demo made, and how to look at it."""
    funnel(result["refresh"])
    training(result["train"])
    scores(result["eval"])
    table = _table("Where everything lies", "what", "where")
    for what, where in result["where"].items():
        table.add_row(what, str(where))
    console.print(table)
    console.print("Look at it:  webtext ui      the Prefect runs and the MLflow curves in a browser")
    console.print("             webtext report  one HTML page with the funnel, the plots and the tables")
    console.print("             webtext sample --run demo --prompt 'The array is'")
    console.print(f"{'Found done' if result['skipped'] else 'Done'} in {result['seconds']:.0f} s; lake {settings.lake}")


def plan(result: dict[str, Any]) -> None:
    """What a refresh would fetch."""
    meanings = _meanings("links")
    table = _table("What a refresh would do", "links", "count", "what it means")
    for status, count in result["links"]["by_status"].items():
        table.add_row(status, f"{count:,}", meanings[status])
    console.print(table)
    largest = ", ".join(f"{domain} {count:,}" for domain, count in result["largest_domains"].items())
    console.print(f"{result['domains']:,} domains; the largest: {largest or 'none'}")
    console.print(f"at least {result['least_hours']} hours: the links of the largest domain times --host-delay")


def training_plan(result: dict[str, Any]) -> None:
    """What a training run would be: its settings, its size, and what it needs on one GPU and on eight."""
    settings({name: result[name] for name in ("preset", "model", "training", "size")})
    table = _table("Memory a process, in GB, and time", "", *(f"GPUs: {n}" for n in result["gpus"]))
    each = list(result["gpus"].values())
    for kind, label in (("plain", ""), ("recompute", " with recompute=true")):
        for part in each[0]["memory"][kind]:
            if kind == "plain" or part in ("activations", "total"):
                table.add_row(part + label, *(f"{gpu['memory'][kind][part] / 1e9:,.2f}" for gpu in each))
    at = f"time at {result['assumed_mfu']:.0%} of the peak of A100s"
    table.add_row(at, *(duration(gpu["a100_hours"] * 3600) for gpu in each))
    console.print(table)
    for n, why in result["impossible"].items():
        console.print(f"not on {n} GPUs: {why}")
    console.print("Estimates: model/memory.py says how they are counted. The micro-batch is micro_batch_size.")


def settings(result: dict[str, Any]) -> None:
    """Names and values, nested ones indented."""
    for name, value in result.items():
        if isinstance(value, dict):
            console.print(f"{name}")
            for inner, inner_value in value.items():
                console.print(f"  {inner:<24} {_number(inner_value)}")
        else:
            console.print(f"{name:<26} {_number(value)}")


def why(found: list[dict[str, Any]]) -> None:
    """One block a snapshot: each stage's outcome and what is known there."""
    for entry in found:
        console.print(f"{entry['snapshot']}: {entry['canonical_url']}", soft_wrap=True)
        for stage, fields in entry["stages"].items():
            rest = ", ".join(f"{k} {v}" for k, v in fields.items() if k != "status" and v not in (None, ""))
            meaning = _meanings(stage)[fields["status"]]
            console.print(
                f"  {stage:<7} {fields['status']}: {meaning}" + (f" ({rest})" if rest else ""), soft_wrap=True
            )


def status(result: dict[str, Any]) -> None:
    table = _table(f"Snapshots in {result['lake']}", "snapshot", "links", "pages", "text", "select", "tokens")
    for name, stages in result["snapshots"].items():
        table.add_row(name, *(_stage_cell(stages.get(stage)) for stage in STATUSES))
    console.print(table)
    runs = _table("Runs", "run", "state", "steps", "val loss", "checkpoints", "scores")
    for name, run in result["runs"].items():
        numbers = (_number(run.get("steps")), _number(run.get("val_loss")))
        runs.add_row(name, run["state"], *numbers, str(len(run["checkpoints"])), str(len(run["scores"])))
    console.print(runs)
    for name, server in result["servers"].items():
        console.print(f"{name:<8} {server['state']} {server.get('url', '')}")


def servers(result: dict[str, Any]) -> None:
    """Addresses for a browser, and what the `prefect` and `mlflow` commands need."""
    console.print(f"Prefect  {result['prefect']}")
    console.print(f"MLflow   {result['mlflow']}")
    console.print("for the prefect and mlflow commands:")
    for name, value in result["environment"].items():
        console.print(f"  export {name}={value}")


def doctor(checks: list[dict[str, Any]]) -> None:
    marks = {"good": "[green]good[/]", "note": "[yellow]note[/]", "bad": "[red]bad [/]"}
    for check in checks:
        line = Text.from_markup(marks[check["state"]]).append(f"  {check['what']}: {check['detail']}")
        console.print(line, soft_wrap=True)


def _meanings(stage: str) -> dict[str, str]:
    return {status.value: str(status.__doc__) for status in STATUSES[stage]}


def _stage_cell(stage: dict[str, Any] | None) -> str:
    if stage is None:
        return ""
    if stage["state"] == "done":
        return f"{stage['rows_out']:,}"
    return f"{stage['parts_sealed']} parts"


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "" if value is None else str(value)
    if isinstance(value, int) or value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
