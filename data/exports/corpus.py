"""Write a corpus in a format that other programs load. ``FORMATS`` names the formats.

The files come into a hidden folder beside the target, which is renamed at the end. So a directory with the name of the
target is whole, whatever ended the program. Every file that is read is compared with its sha256 first.

Documents keep the order of the corpus, shard by shard and snapshot by snapshot, and their split. Memory: one shard.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import FULL, InputError
from data.exports import documents, streams
from data.exports.source import Snapshot, Written
from data.lake import disk
from data.lake.store import Lake

Progress = Callable[[int, int], None]
"""Called with the number of parts that are done and the number of all."""

FORMATS: dict[str, Callable[[Sequence[Snapshot], Path], Iterator[Written]]] = {
    "nanogpt": streams.nanogpt,
    "llmc": streams.llmc,
    "datatrove": streams.datatrove,
    "hf": documents.hugging_face,
    "jsonl": documents.jsonl,
}
"""Each writes into a folder and yields what it wrote after every part."""


@dataclass(frozen=True)
class ExportedCorpus:
    """What was written. Tokens include one end-of-text per document."""

    snapshots: list[str]
    format: str
    directory: str
    files: dict[str, int]  # bytes by path
    documents: dict[str, int]  # by split
    tokens: dict[str, int]


def export_corpus(lake: Lake, snapshots: Sequence[str], form: str, to: Path, progress: Progress) -> ExportedCorpus:
    """Write the corpus of these snapshots into ``to``, which must be new or empty.

    Raises InputError for an unknown format, a target with content, a snapshot without tokens, a corpus without
    documents, or a damaged file.
    """
    write = FORMATS.get(form)
    if write is None:
        raise InputError(f"--format {form}: no such format; choose from {', '.join(FORMATS)}")
    if len(set(snapshots)) != len(snapshots):
        raise InputError(f"--corpus {','.join(snapshots)}: names a snapshot twice")
    corpus = [Snapshot.open(lake, name) for name in snapshots]
    if not any(one.manifest.rows_out for one in corpus):
        raise InputError(f"--corpus {','.join(snapshots)}: has no document; there is nothing to export")
    with _new_folder(to) as folder:
        total = sum(one.n_steps(reads_texts=form in documents.FORMATS) for one in corpus)
        n_documents = {"train": 0, "val": 0}
        n_tokens = {"train": 0, "val": 0}
        for done, written in enumerate(write(corpus, folder), start=1):
            for split, count in written.documents.items():
                n_documents[split] += count
                n_tokens[split] += written.tokens[split]
            progress(done, total)
        files = {
            str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()
        }
    return ExportedCorpus(list(snapshots), form, str(to), files, n_documents, n_tokens)


@contextlib.contextmanager
def _new_folder(to: Path) -> Iterator[Path]:
    """A folder that gets the name ``to`` at the end, and is removed after an error."""
    _refuse_content(to)
    beside = to.absolute().parent / f".{to.absolute().name}.partial"
    try:
        disk.sweep_scratch(beside)
        scratch = disk.new_scratch(beside)
    except OSError as error:
        raise InputError(f"--to {to}: cannot be written ({error.strerror}); choose another directory") from error
    try:
        folder = scratch / "export"
        folder.mkdir()
        yield folder
        _refuse_content(to)
        disk.move_new_folder(folder, to.absolute())
    except OSError as error:
        if error.errno in FULL:
            raise OSError(error.errno, error.strerror, str(to)) from error
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        with contextlib.suppress(OSError):  # another export into the same place
            beside.rmdir()


def _refuse_content(to: Path) -> None:
    if os.path.lexists(to) and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"--to {to}: exists and is not an empty directory; choose another")
