"""``webtext``: the command line. Every command calls one flow or one function.

Exit codes: 0 done, 1 failed (one line on standard error says why and what to do), 2 wrong usage.
Commands import heavy packages themselves, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer import BadParameter

from data.config import LinksConfig, PagesConfig, SelectConfig
from data.errors import FULL, InputError, told
from flows.cli import options
from flows.cli.session import chosen_settings, session
from flows.settings import Settings

app = typer.Typer(
    name="webtext",
    help="Build your own WebText, train GPT-2 on it, and score it zero-shot.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def main() -> NoReturn:
    """The console script."""
    try:
        app()
    except InputError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno not in FULL and error.filename is None:
            raise
        _fail(told(error))
    sys.exit(0)


def _fail(message: str) -> NoReturn:
    print(f"webtext: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(1)


@app.command()
def demo(lake: options.Lake = None, as_json: options.Json = False) -> None:
    """Run the whole pipeline on a bundled local web.

    Crawls a few thousand pages that this program serves to itself, makes a corpus of them, trains a small GPT-2 on it,
    and scores it. Needs no network. Run it again: finished work is verified, not repeated.
    """
    from flows.localweb.build import building
    from flows.progress import say

    settings = chosen_settings(lake)
    say("building the local web from the documentation of the installed packages")
    with session(settings, while_servers_start=building(settings.home.absolute())):
        from flows.cli.demo import run_demo

        result = run_demo(settings)
    _result(result, as_json, lambda: _show().demo(result, settings))


@app.command(epilog=options.REFRESH_EXAMPLES)
def refresh(
    sources: options.Sources,
    snapshot: options.NewSnapshot = None,
    dry_run: options.DryRun = False,
    min_karma: options.MinKarma = LinksConfig.min_karma,
    profile: options.Profile = LinksConfig.profile,
    block_list: options.BlockList = None,
    archive: options.Archive = None,
    history: options.History = None,
    filters: options.Filters = None,
    language: options.Language = SelectConfig.language,
    host_delay: options.HostDelay = PagesConfig.host_delay_s,
    max_connections: options.MaxConnections = PagesConfig.max_connections,
    max_links_per_host: options.MaxLinksPerHost = PagesConfig.max_links_per_host,
    deadline: options.Deadline = None,
    max_bytes: options.MaxBytes = None,
    allow_net: options.AllowNet = None,
    connect_to: options.ConnectTo = None,
    lake: options.Lake = None,
    as_json: options.Json = False,
) -> None:
    """Make a snapshot: read links, crawl the pages, extract text, select documents, write tokens.

    Run it again with the same arguments to resume: finished work is verified, not repeated. A snapshot that was begun
    with other settings is refused. Links cut off by a deadline or a budget are `deferred`; the next snapshot takes them
    first. docs/crawling.md explains every limit of the crawl. Set WEBTEXT_CONTACT so that site owners can reach you.
    """
    settings = chosen_settings(lake)
    options.check_profile(profile)
    select = options.select_config(filters, language, snapshot)
    links = LinksConfig(min_karma=min_karma, profile=profile, block_domains=options.block_domains(block_list or []))
    pages = PagesConfig(
        host_delay_s=host_delay,
        max_connections=max_connections,
        max_links_per_host=max_links_per_host,
        archives=options.archives(archive or []),
        deadline_s=None if deadline is None else options.seconds(deadline, "--deadline"),
        max_bytes=None if max_bytes is None else options.n_bytes(max_bytes, "--max-bytes"),
        allow_net=tuple(allow_net or ()),
        connect_to=tuple(connect_to or ()),
    )
    if dry_run:
        from flows.cli.dryrun import refresh_plan

        planned = refresh_plan(sources, links, pages, settings.lake)
        _result(planned, as_json, lambda: _show().plan(planned))
        return
    with session(settings):
        from flows.refresh import refresh as refresh_flow

        result = refresh_flow(
            sources, snapshot, settings.lake, links=links, pages=pages, select=select, history=history
        )
    _result(result, as_json, lambda: _show().funnel(result))


@app.command()
def train(
    corpus: Annotated[str, typer.Option(metavar="SNAPSHOT[,SNAPSHOT]", help="Train on these snapshots.")],
    preset: Annotated[
        str,
        typer.Option(
            help="Size and recipe: nano, mini, 124M, 355M, 774M, 1558M, or the paper's 117M, 345M, 762M, 1542M."
        ),
    ],
    run: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Name of the run; an existing run is resumed. [default: from preset and corpus]",
            callback=options.filled,
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Stop after N steps in all. [default: the preset's]", metavar="N")
    ] = None,
    init_from: Annotated[
        str | None,
        typer.Option(
            "--init-from",
            metavar="DIR",
            help="Start a new run from the GPT-2 in this directory, which transformers must be able to load.",
            callback=options.filled,
        ),
    ] = None,
    device: options.Device = "auto",
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change a setting of the preset (docs/training.md); repeatable."
        ),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, metavar="N", help="Train in N processes, one per GPU.")] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print settings, size, memory and time on GPUs; train nothing.")
    ] = False,
    lake: options.Lake = None,
    as_json: options.Json = False,
) -> None:
    """Pretrain GPT-2 on a corpus, or resume a run."""
    changes = options.pairs(overrides or [])
    settings = chosen_settings(lake)
    from model.config import resolve

    try:
        resolve(preset, changes if steps is None else {**changes, "steps": str(steps)})
    except InputError as error:
        raise BadParameter(str(error)) from error
    if dry_run:
        from flows.cli.dryrun import train_plan

        planned = train_plan(preset, changes, steps, processes)
        _result(planned, as_json, lambda: _show().training_plan(planned))
        return
    with session(settings):
        from flows.pretrain import pretrain

        snapshots = corpus.split(",")
        result = pretrain(snapshots, preset, run, settings.lake, steps, device, changes, processes, init_from)
    _result(result, as_json, lambda: _show().training(result))


@app.command(name="eval")
def evaluate(
    run: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Score the newest checkpoint of this run.", callback=options.filled),
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(metavar="DIR", help="Score this checkpoint.", callback=options.filled)
    ] = None,
    hf: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Score the GPT-2 in a directory that transformers loads.", callback=options.filled
        ),
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(
            metavar="SNAPSHOT[,SNAPSHOT]",
            help="Take held-out documents from these snapshots. [default: the run's corpus]",
        ),
    ] = None,
    tasks: Annotated[str, typer.Option(metavar="a,b|all", help="Score these tasks only.")] = "all",
    eval_data: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Read official benchmark files (LAMBADA, WikiText-2) from here.",
            callback=options.filled,
        ),
    ] = None,
    fetch: Annotated[
        bool,
        typer.Option(
            "--fetch",
            help="First download the official files that the tasks need and that are missing, into --eval-data "
            "[default: eval-data in WEBTEXT_HOME]; with no model named, do only that.",
        ),
    ] = False,
    any_file: Annotated[
        bool, typer.Option("--any-file", help="Score benchmark files, too, that are cut off or not the official ones.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Score at most N examples per task. [default: the task's own limit]")
    ] = None,
    control: Annotated[
        bool,
        typer.Option(
            "--control",
            help="Also score each answer after another example's context: what the answers alone give away. Takes "
            "twice as long.",
        ),
    ] = False,
    ablate: Annotated[
        str | None,
        typer.Option(
            metavar="TASK",
            help="Instead, score this task by every combination of its choices, beside the published numbers that they "
            "may explain; nothing is kept: paper/lambada, paper/wikitext2, paper/cbt_cn or paper/cbt_ne.",
            callback=options.filled,
        ),
    ] = None,
    compare: options.Compare = None,
    stride: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Move the window of long texts by N tokens; such a score is shown, not kept. [default: half the "
            "model's context]",
        ),
    ] = None,
    promote: options.Promote = None,
    device: options.Device = "auto",
    batch_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Compute at most N positions in one pass; fewer need less memory. [default: what the device holds]",
        ),
    ] = None,
    lake: options.Lake = None,
    as_json: options.Json = False,
) -> None:
    """Score a run, a checkpoint or a transformers directory zero-shot; or compare the scores of two runs."""
    named = sum(value is not None for value in (run, checkpoint, hf, compare))
    if named > 1 or (named == 0 and not fetch):
        raise BadParameter("name exactly one of --run, --checkpoint, --hf and --compare")
    if promote is not None and run is None:
        raise BadParameter("--promote needs --run")
    options.refuse_together(
        compare=compare is not None,
        ablate=ablate is not None,
        has_model=named > 0,
        chosen={
            "--any-file": any_file,
            "--control": control,
            "--corpus": corpus is not None,
            "--fetch": fetch,
            "--limit": limit is not None,
            "--promote": promote is not None,
            "--stride": stride is not None,
            "--tasks": tasks != "all",
        },
    )
    settings = chosen_settings(lake)
    if compare is not None:
        from data.lake.store import Lake
        from model.compare import compare as compare_runs

        compared = compare_runs(Lake(settings.lake), *compare)
        _result(compared, as_json, lambda: _show().comparison(compared))
        return
    if fetch:
        from flows.cli import fetch as fetching
        from flows.progress import say

        wanted = [ablate] if ablate else [] if tasks == "all" else tasks.split(",")
        fetched = fetching.fetch_sets(settings, wanted, eval_data, for_ablation=ablate is not None)
        if named == 0:
            _result(fetched, as_json, lambda: fetching.show(fetched))
            fetching.require_fetched(fetched)
            return
        fetching.show(fetched, say)
        eval_data = fetched.directory
    if ablate is not None:
        with session(settings):
            from flows.evaluate import ablate as ablate_flow

            ablated = ablate_flow(
                ablate,
                run=run,
                checkpoint=checkpoint,
                hf=hf,
                eval_data=eval_data,
                limit=limit,
                any_file=any_file,
                device=device,
                batch_tokens=batch_tokens,
                lake=settings.lake,
            )
        _result(ablated, as_json, lambda: _show().ablation(ablated))
        return
    with session(settings):
        from flows.evaluate import evaluate as evaluate_flow

        result = evaluate_flow(
            run=run,
            checkpoint=checkpoint,
            hf=hf,
            corpus=corpus.split(",") if corpus else None,
            tasks=None if tasks == "all" else tasks.split(","),
            eval_data=eval_data,
            limit=limit,
            control=control,
            any_file=any_file,
            stride=stride,
            device=device,
            batch_tokens=batch_tokens,
            promote=promote,
            lake=settings.lake,
        )
    _result(result, as_json, lambda: _show().scores(result))


@app.command()
def sample(
    run: options.Run,
    prompt: Annotated[str, typer.Option(help="Continue this text.")],
    tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Write at most N tokens.")] = 100,
    temperature: Annotated[float, typer.Option(help="Below 1: safer text; 0: always the likeliest token.")] = 1.0,
    top_k: Annotated[
        int, typer.Option(metavar="K", help="Sample from the K likeliest tokens (the paper: 40); 0: from all.")
    ] = 40,
    top_p: Annotated[
        float, typer.Option(metavar="P", help="Sample from the likeliest tokens whose probabilities add up to P.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Use another seed to get another text.")] = 0,
    step: options.Step = None,
    lake: options.Lake = None,
    as_json: options.Json = False,
) -> None:
    """Continue a prompt with a run's model."""
    from flows.cli.models import sample_text
    from model.generate import Sampling

    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    result = sample_text(chosen_settings(lake), run, prompt, tokens, sampling, step)
    _result(result, as_json, lambda: print(prompt + result.text))


@app.command(epilog=options.EXPORT_FORMATS)
def export(
    to: options.ExportDirectory,
    run: options.ExportedRun = None,
    corpus: options.ExportedCorpus = None,
    form: options.ExportFormat = None,
    step: options.Step = None,
    lake: options.Lake = None,
    as_json: options.Json = False,
) -> None:
    """Write a run's model, or a corpus, for other programs.

    A model becomes a directory that transformers loads: weights, configuration, tokenizer. A corpus is written in the
    format that you choose. An export that is interrupted leaves nothing under the name of the directory.
    """
    if (run is None) == (corpus is None):
        raise BadParameter("name exactly one of --run and --corpus")
    settings = chosen_settings(lake)
    if run is not None:
        if form is not None:
            raise BadParameter("--format belongs to --corpus; a model is written for transformers")
        from flows.cli.models import export_model

        model = export_model(settings, run, to, step)
        _result(model, as_json, lambda: print(f"{to}: step {model.step} of run {run}, for transformers"))
        return
    if form is None:
        raise BadParameter("--corpus needs --format: nanogpt, llmc, datatrove, hf or jsonl")
    if step is not None:
        raise BadParameter("--step belongs to --run")
    from flows.cli.corpus import export as export_corpus

    result = export_corpus(settings, str(corpus).split(","), form, to)
    _result(result, as_json, lambda: _show().exported(result))


@app.command()
def overlap(
    corpus: options.SearchedCorpus,
    eval_data: options.SearchedFor,
    decontaminate: options.Decontaminate = None,
    lake: options.Lake = None,
    as_json: options.Json = False,
) -> None:
    """Measure how much of the evaluation sets is in a corpus, by 8-grams, as in the paper's section 4.

    Where the training part of a set is there too (wiki.train.tokens), also how much of the set is in that part.
    Finished work is verified, not repeated. `webtext report` shows the result.
    """
    from flows.cli.corpus import overlap as find_overlap

    result = find_overlap(chosen_settings(lake), corpus.split(","), Path(eval_data), decontaminate)
    _result(result, as_json, lambda: _show().overlap(result))


@app.command()
def report(
    snapshot: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Show only this snapshot. [default: all]", callback=options.filled),
    ] = None,
    run: Annotated[
        str | None, typer.Option(metavar="NAME", help="Show only this run. [default: all]", callback=options.filled)
    ] = None,
    to: Annotated[Path, typer.Option(metavar="FILE", dir_okay=False, help="Write the page to this file.")] = Path(
        "report/index.html"
    ),
    lake: options.Lake = None,
    as_json: options.Json = False,
) -> None:
    """Write an HTML page with the funnel, the plots and the tables."""
    from flows.cli.report import write_report

    result = write_report(chosen_settings(lake), snapshot, run, to)
    _result(result, as_json, lambda: print(f"{to}: {len(result.snapshots)} snapshots, {len(result.runs)} runs"))


@app.command()
def why(
    url: Annotated[str, typer.Argument(metavar="URL", help="A URL as it stands in the source, or canonical.")],
    lake: options.Lake = None,
    as_json: options.Json = False,
) -> None:
    """Show what became of a URL at each stage."""
    from data.lake.store import Lake
    from flows.cli.explain import what_became_of

    found = what_became_of(Lake(chosen_settings(lake).lake), url)
    _result({"url": url, "found": found}, as_json, lambda: _show().why(found))


@app.command()
def duplicates(
    asked: options.DocOrUrl,
    lake: options.Lake = None,
    as_json: options.Json = False,
) -> None:
    """Show why a document was dropped, beside the one that was kept, or what a kept document displaced.

    A near-duplicate is shown with the exact Jaccard index of the two texts' n-grams, and with the words marked that
    differ. A URL may have several documents: one per snapshot, judged once per variant.
    """
    from data.duplicates import duplicates_of
    from data.lake.store import Lake

    found = duplicates_of(Lake(chosen_settings(lake).lake), asked)
    _result(found, as_json, lambda: _show().duplicates(found))


@app.command()
def status(lake: options.Lake = None, as_json: options.Json = False) -> None:
    """Show what is done and what is running: snapshots by stage, training runs, servers."""
    from flows.cli.status import collect

    result = collect(chosen_settings(lake))
    _result(result, as_json, lambda: _show().status(result))


@app.command()
def ui(
    stop: Annotated[bool, typer.Option("--stop", help="Stop the local servers.")] = False,
    as_json: options.Json = False,
) -> None:
    """Print the addresses of the local Prefect and MLflow servers; start them if necessary."""
    from flows import services

    settings = Settings()
    if stop:
        ended = services.stop(settings.home)
        _result({"stopped": ended}, as_json, lambda: print(f"stopped: {', '.join(ended) or 'nothing ran'}"))
        return
    result = services.addresses(settings)
    _result(result, as_json, lambda: _show().servers(result))


@app.command()
def doctor(lake: options.Lake = None, as_json: options.Json = False) -> None:
    """Check this installation, the servers and every file of the lake. Exits with code 1 if something is wrong."""
    from flows.cli.doctor import examine

    result = examine(chosen_settings(lake))
    _result(result, as_json, lambda: _show().doctor(result))
    if result.has_bad:
        raise typer.Exit(1)


def _show() -> Any:
    from flows.cli import show

    return show


def _result(value: object, as_json: bool, for_people: Callable[[], None]) -> None:
    """Print a result, a dataclass, as one line of JSON or as ``for_people`` prints it."""
    if as_json:
        from model.events import to_json

        sys.stdout.flush()
        print(json.dumps(to_json(value)), flush=True)
    else:
        for_people()


if __name__ == "__main__":
    main()
