"""``webtext eval``: score a model, score one task by all its choices, compare two runs, or fetch the official files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from typer import BadParameter, Option

from flows.cli import options
from flows.cli.output import print_result, show
from flows.cli.session import chosen_settings, session

MODEL = "Which model"
WHAT = "What is scored"
INSTEAD = "Instead of scoring"
Compare = Annotated[
    tuple[str, str] | None,
    Option(
        "--compare",
        metavar="RUN RUN",
        help="Compare the newest scores of two runs, with significance. Scores nothing.",
        rich_help_panel=INSTEAD,
    ),
]

Promote = Annotated[
    str | None,
    Option(
        metavar="TASK",
        help="Make the checkpoint the champion in MLflow if it is better at TASK than the present one, with p < 0.05.",
        callback=options.filled,
    ),
]


def evaluate(
    run: Annotated[
        str | None,
        Option(
            metavar="NAME",
            help="Score the newest checkpoint of this run.",
            callback=options.filled,
            rich_help_panel=MODEL,
        ),
    ] = None,
    checkpoint: Annotated[
        str | None, Option(metavar="DIR", help="Score this checkpoint.", callback=options.filled, rich_help_panel=MODEL)
    ] = None,
    hf: Annotated[
        str | None,
        Option(
            metavar="DIR",
            help="Score the model in a directory that transformers loads.",
            callback=options.filled,
            rich_help_panel=MODEL,
        ),
    ] = None,
    corpus: Annotated[
        str | None,
        Option(
            metavar="SNAPSHOT[,SNAPSHOT]",
            help="Take held-out documents from these snapshots. [default: the run's corpus]",
            rich_help_panel=WHAT,
        ),
    ] = None,
    tasks: Annotated[str, Option(metavar="a,b|all", help="Score these tasks only.", rich_help_panel=WHAT)] = "all",
    eval_data: Annotated[
        str | None,
        Option(
            metavar="DIR",
            help="Read the official files of the benchmarks from here. [default: eval-data in WEBTEXT_HOME, where "
            "--fetch puts them]",
            callback=options.filled,
            rich_help_panel=WHAT,
        ),
    ] = None,
    fetch: Annotated[
        bool,
        Option(
            "--fetch",
            help="First download the official files that the tasks need and that are missing, into --eval-data; "
            "with no model named, do only that.",
            rich_help_panel=WHAT,
        ),
    ] = False,
    any_file: Annotated[
        bool,
        Option(
            "--any-file",
            help="Score benchmark files, too, that are cut off or not the official ones.",
            rich_help_panel=WHAT,
        ),
    ] = False,
    limit: Annotated[
        int | None,
        Option(
            metavar="N", help="Score at most N examples per task. [default: the task's own limit]", rich_help_panel=WHAT
        ),
    ] = None,
    control: Annotated[
        bool,
        Option(
            "--control",
            help="Also score each answer after another example's context: what the answers alone give away. Takes "
            "twice as long.",
            rich_help_panel=WHAT,
        ),
    ] = False,
    ablate: Annotated[
        str | None,
        Option(
            metavar="TASK",
            help="Instead, score this task by every combination of its choices, beside the published numbers that they "
            "may explain; nothing is kept: paper/lambada, paper/wikitext2, paper/cbt_cn or paper/cbt_ne.",
            callback=options.filled,
            rich_help_panel=INSTEAD,
        ),
    ] = None,
    compare: Compare = None,
    stride: Annotated[
        int | None,
        Option(
            min=1,
            metavar="N",
            help="Move the window of long texts by N tokens; such a score is shown, not kept. [default: half the "
            "model's context]",
            rich_help_panel=WHAT,
        ),
    ] = None,
    promote: Promote = None,
    device: options.Device = "auto",
    batch_tokens: Annotated[
        int | None,
        Option(
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
    _refuse_together(
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
        print_result(compared, as_json, lambda: show().comparison(compared))
        return
    if fetch:
        from flows.cli import fetch as fetching
        from flows.progress import say

        wanted = [ablate] if ablate else [] if tasks == "all" else tasks.split(",")
        fetched = fetching.fetch_sets(settings, wanted, eval_data, for_ablation=ablate is not None)
        if named == 0:
            print_result(fetched, as_json, lambda: fetching.show(fetched))
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
        print_result(ablated, as_json, lambda: show().ablation(ablated))
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
    print_result(result, as_json, lambda: show().scores(result))


def _refuse_together(*, compare: bool, ablate: bool, has_model: bool, chosen: Mapping[str, bool]) -> None:
    """Refuse options of ``webtext eval`` that ``--compare`` or ``--ablate`` would ignore.

    ``chosen`` says which of the other options were given. Raises BadParameter.
    """
    given = {name for name, is_given in chosen.items() if is_given}
    if compare and (given or ablate):
        names = sorted(given | ({"--ablate"} if ablate else set()))
        raise BadParameter(f"--compare scores nothing, so it cannot go with {', '.join(names)}")
    lost = given - {"--any-file", "--fetch", "--limit"}
    if ablate and lost:
        raise BadParameter(f"--ablate cannot go with {', '.join(sorted(lost))}")
    if ablate and not has_model:
        raise BadParameter("--ablate needs --run, --checkpoint or --hf")
