"""``webtext``: the command line. Every command calls one flow or one function.

Exit codes: 0 done, 1 failed (one line on standard error says why and what to do), 2 wrong usage.
Commands import heavy packages themselves, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from typer import BadParameter

from data.config import LinksConfig, PagesConfig, SelectConfig
from data.errors import FULL, InputError, told
from flows.cli import options, scoring
from flows.cli.output import print_result, show
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
    print_result(result, as_json, lambda: show().demo(result, settings))


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
        print_result(planned, as_json, lambda: show().plan(planned))
        return
    with session(settings):
        from flows.refresh import refresh as refresh_flow

        result = refresh_flow(
            sources, snapshot, settings.lake, links=links, pages=pages, select=select, history=history
        )
    print_result(result, as_json, lambda: show().funnel(result))


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
        print_result(planned, as_json, lambda: show().training_plan(planned))
        return
    with session(settings):
        from flows.pretrain import pretrain

        snapshots = corpus.split(",")
        result = pretrain(snapshots, preset, run, settings.lake, steps, device, changes, processes, init_from)
    print_result(result, as_json, lambda: show().training(result))


app.command(name="eval")(scoring.evaluate)


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
    print_result(result, as_json, lambda: print(prompt + result.text))


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
        print_result(model, as_json, lambda: print(f"{to}: step {model.step} of run {run}, for transformers"))
        return
    if form is None:
        raise BadParameter("--corpus needs --format: nanogpt, llmc, datatrove, hf or jsonl")
    if step is not None:
        raise BadParameter("--step belongs to --run")
    from flows.cli.corpus import export as export_corpus

    result = export_corpus(settings, str(corpus).split(","), form, to)
    print_result(result, as_json, lambda: show().exported(result))


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
    print_result(result, as_json, lambda: show().overlap(result))


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
    print_result(result, as_json, lambda: print(f"{to}: {len(result.snapshots)} snapshots, {len(result.runs)} runs"))


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
    print_result({"url": url, "found": found}, as_json, lambda: show().why(found))


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
    print_result(found, as_json, lambda: show().duplicates(found))


@app.command()
def status(lake: options.Lake = None, as_json: options.Json = False) -> None:
    """Show what is done and what is running: snapshots by stage, training runs, servers."""
    from flows.cli.status import collect

    result = collect(chosen_settings(lake))
    print_result(result, as_json, lambda: show().status(result))


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
        print_result({"stopped": ended}, as_json, lambda: print(f"stopped: {', '.join(ended) or 'nothing ran'}"))
        return
    result = services.addresses(settings)
    print_result(result, as_json, lambda: show().servers(result))


@app.command()
def doctor(lake: options.Lake = None, as_json: options.Json = False) -> None:
    """Check this installation, the servers and every file of the lake. Exits with code 1 if something is wrong."""
    from flows.cli.doctor import examine

    result = examine(chosen_settings(lake))
    print_result(result, as_json, lambda: show().doctor(result))
    if result.has_bad:
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
