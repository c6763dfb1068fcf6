"""The corpus as one long array of tokens, and the tokens of the n-th training sample.

A corpus is a list of ``tokens`` datasets of the lake. Their Parquet files are verified and copied once into a local
cache directory, as one flat file of 16-bit tokens per split, which every process of the machine maps into memory.
Documents follow each other with their end-of-text tokens; none is cropped.

Most loaders carry state. Here, as in levanter, sample n is a function of (corpus digest, seed, n, context) alone.
Resuming needs one integer, and the batches are the same for any number of processes and any micro-batch size. An epoch
is a pseudo-random order of all windows of ``context`` tokens. A small Feistel network (Luby and Rackoff, 1988) with
cycle walking (Black and Rogaway, 2002) computes any position of that order directly, without a table.

The corpus is read as a ring that begins at a random token. Windows lie end to end on it, and an epoch is one round of
windows. The last window of an epoch runs on into the next round, and the next epoch's windows begin where it ends. So:

- In an epoch every token is an input, fewer than ``context`` of them twice.
- After any number of epochs, no token was an input more often than another by more than one.
- Every epoch cuts the corpus at other places, unless the context divides it.

Cost: two bytes of disk per token. A batch is copied from memory-mapped pages, about 1 us per window besides the copy.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import InputError
from data.lake.manifest import SPLITS, File, Manifest, corpus_digest
from data.lake.store import Dataset, Lake

FORMAT = 1  # of the cache; raised when its files change
_ROUNDS = 6  # of the Feistel network; four suffice for pseudo-random rounds, and these are only cheap mixers

Tokens = npt.NDArray[np.uint16]
Indices = npt.NDArray[np.int64]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Corpus:
    """Tokens of the training and the validation documents, mapped read-only, with facts about them."""

    digest: str  # over the snapshots' digests in their order
    snapshots: tuple[str, ...]
    tokenizer: str
    train: Tokens
    val: Tokens
    train_documents: int
    val_documents: int
    max_token: int
    unigram_entropy: float  # of the training tokens, nats per token: the loss of the best model that ignores context


@dataclass(frozen=True)
class Sampler:
    """Which tokens sample n holds: ``context`` inputs, and as targets the ``context`` tokens one position later."""

    corpus_digest: str
    seed: int
    n_tokens: int  # training tokens of the corpus
    context: int

    def __post_init__(self) -> None:
        if self.n_tokens <= self.context:
            raise InputError(
                f"the corpus has {self.n_tokens} training tokens, too few for one sample of context={self.context}; "
                "add snapshots or lower the context"
            )

    @property
    def windows(self) -> int:
        """Samples per epoch: enough for every token to be an input."""
        return -(-self.n_tokens // self.context)

    def share_seen(self, samples: int) -> float:
        """The share of the training tokens, in 0..1, that are inputs of the first ``samples`` samples.

        Exact, except for the tokens (fewer than ``context``) that are in the first and in the last window of the first
        epoch.
        """
        return min(1.0, samples * self.context / self.n_tokens)

    def starts(self, samples: Indices) -> Indices:
        """The position of the first token of each sample; samples count from 0."""
        epochs, windows = np.divmod(samples, self.windows)
        for epoch in np.unique(epochs).tolist():
            chosen = epochs == epoch
            windows[chosen] = _permute(windows[chosen], self.windows, self._keys(epoch, _ROUNDS))
        begin = int(self._keys(None, 1)[0]) % self.n_tokens
        starts: Indices = (begin + (epochs * self.windows + windows) * self.context) % self.n_tokens
        return starts

    def batch(self, train: Tokens, samples: Indices) -> tuple[Indices, Indices]:
        """Inputs and targets of these samples, each ``[len(samples), context]``."""
        ring = (self.starts(samples)[:, None] + np.arange(self.context + 1)) % self.n_tokens
        tokens = train[ring].astype(np.int64)
        return tokens[:, :-1], tokens[:, 1:]

    def _keys(self, epoch: int | None, count: int) -> npt.NDArray[np.uint64]:
        """Pseudo-random numbers for an epoch, or for the whole run if ``epoch`` is None."""
        name = f"{self.corpus_digest}/{self.seed}/{self.context}/{'start' if epoch is None else epoch}"
        return np.frombuffer(hashlib.shake_256(name.encode()).digest(8 * count), dtype="<u8")


def derive_seed(seed: int, purpose: str) -> int:
    """A seed of 63 bits for one purpose, independent of the seeds for other purposes."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8], "little") >> 1


def rank_samples(
    samples_seen: int, batch_size: int, micro_batch_size: int, rank: int, world_size: int
) -> Iterator[Indices]:
    """The sample numbers of one process in one step, one micro-batch at a time.

    The batch is cut into as few micro-batches as ``micro_batch_size`` allows, equally many for each process and as even
    as possible. Micro-batch m goes to process ``m % world_size``, so the step has the same samples for any number of
    processes.
    """
    per_process = -(-batch_size // (micro_batch_size * world_size))
    samples = np.arange(samples_seen, samples_seen + batch_size, dtype=np.int64)
    yield from np.array_split(samples, per_process * world_size)[rank::world_size]


def val_windows(n_tokens: int, context: int, limit: int) -> list[tuple[int, int]]:
    """Windows ``(start, inputs)`` over the validation tokens, in order and without overlap.

    With a ``limit`` of 0, all windows, the last one shorter; otherwise at most ``limit`` windows, evenly spread.
    """
    starts = range(0, n_tokens - 1, context)
    windows = [(start, min(context, n_tokens - 1 - start)) for start in starts]
    if not 0 < limit < len(windows):
        return windows
    return [windows[int(i)] for i in np.linspace(0, len(windows) - 1, limit).round()]


def open_corpus(lake: Lake, snapshots: tuple[str, ...], cache_dir: Path, *, verify: bool = True) -> Corpus:
    """Map the corpus, after copying it into the cache if needed. Processes may call this at the same time.

    A cached copy is hashed first; pass ``verify=False`` if another process has just done so. Raises InputError if a
    snapshot is missing or damaged, if tokenizers differ, or if a split is empty.
    """
    manifests = {snapshot: lake.dataset("tokens", snapshot).require() for snapshot in snapshots}
    tokenizer = _tokenizer(manifests)
    digest = corpus_digest(manifests.values())
    cache_dir.mkdir(parents=True, exist_ok=True)
    folder = cache_dir / f"corpus-{digest[:32]}"
    with filelock.FileLock(cache_dir / f"{folder.name}.lock"):  # the first process copies, the others wait
        if verify and folder.exists() and (damage := _damage(folder)):
            log.warning("%s: %s; copying it again from the lake", folder, damage)
            shutil.rmtree(folder)
        for scratch in cache_dir.glob(
            f"{folder.name}-*"
        ):  # left by processes that were killed while they held the lock
            shutil.rmtree(scratch, ignore_errors=True)
        if not folder.exists():
            _materialise(lake, manifests, folder)
    known = orjson.loads((folder / "corpus.json").read_bytes())
    for split in SPLITS:
        size = (folder / f"{split}.bin").stat().st_size
        if size != 2 * known[split]["tokens"]:
            raise InputError(
                f"{folder / split}.bin: {size} bytes for {known[split]['tokens']} tokens; remove {folder} and run again"
            )
    empty = [split for split in SPLITS if known[split]["tokens"] == 0]
    if known["val"]["tokens"] == 1:
        raise InputError(
            f"--corpus {','.join(snapshots)}: the validation documents have one token, too few to predict any; "
            "add a snapshot"
        )
    if empty:
        have = "no training documents" if "train" in empty else "no validation documents (see val_share)"
        raise InputError(f"--corpus {','.join(snapshots)}: {have}; add a snapshot")
    arrays = {split: np.memmap(folder / f"{split}.bin", dtype="<u2", mode="r") for split in SPLITS}
    return Corpus(
        digest=digest,
        snapshots=snapshots,
        tokenizer=tokenizer,
        train=arrays["train"],
        val=arrays["val"],
        train_documents=known["train"]["documents"],
        val_documents=known["val"]["documents"],
        max_token=known["max_token"],
        unigram_entropy=known["unigram_entropy"],
    )


def _permute(indices: Indices, n: int, keys: npt.NDArray[np.uint64]) -> Indices:
    """The images of ``indices`` under a pseudo-random permutation of ``range(n)``.

    The network permutes numbers of an even number of bits, fewer than 4n numbers. An image outside of ``range(n)`` is
    permuted again until it is inside.
    """
    half = np.uint64(max(1, -(-max(1, (n - 1).bit_length()) // 2)))
    mask = np.uint64((1 << int(half)) - 1)
    values = indices.astype(np.uint64)
    outside = np.ones(len(values), dtype=bool)
    while outside.any():
        left = values[outside] >> half
        right = values[outside] & mask
        for key in keys:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        values[outside] = (left << half) | right
        outside = values >= np.uint64(n)
    return values.astype(np.int64)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014), modulo 2^64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _tokenizer(manifests: dict[str, Manifest]) -> str:
    found = {snapshot: str(manifest.settings.get("tokenizer")) for snapshot, manifest in manifests.items()}
    if len(set(found.values())) > 1:
        each = ", ".join(f"{snapshot}: {tokenizer}" for snapshot, tokenizer in found.items())
        raise InputError(f"--corpus mixes tokenizers ({each}); a corpus has one")
    return next(iter(found.values()))


def _materialise(lake: Lake, manifests: dict[str, Manifest], folder: Path) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
    try:
        known: dict[str, Any] = {"format": FORMAT, "snapshots": {name: m.digest for name, m in manifests.items()}}
        counts: dict[str, npt.NDArray[np.int64]] = {}
        for split in SPLITS:
            known[split], counts[split] = _write_split(lake, manifests, split, scratch / f"{split}.bin")
        seen = counts["train"][counts["train"] > 0]
        share = seen / max(1, seen.sum())
        known["unigram_entropy"] = float(-(share * np.log(share)).sum())
        known["max_token"] = int(max(np.flatnonzero(c)[-1] if c.any() else 0 for c in counts.values()))
        (scratch / "corpus.json").write_bytes(orjson.dumps(known, option=orjson.OPT_INDENT_2))
        scratch.replace(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot copy the corpus there ({error}); make room or move the cache") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_split(
    lake: Lake, manifests: dict[str, Manifest], split: str, path: Path
) -> tuple[dict[str, Any], npt.NDArray[np.int64]]:
    """Copy the tokens of a split; returns facts about the file, and how often each token is in it."""
    counts = np.zeros(1 << 16, dtype=np.int64)
    documents = 0
    hasher = hashlib.sha256()
    with path.open("wb") as out:
        for snapshot, manifest in manifests.items():
            dataset = lake.dataset("tokens", snapshot)
            for file in manifest.files_in(split):
                for tokens, n_documents in _read(dataset, file):
                    counts += np.bincount(tokens, minlength=len(counts))
                    documents += n_documents
                    content = tokens.astype("<u2").tobytes()
                    hasher.update(content)
                    out.write(content)
    return {"tokens": int(counts.sum()), "documents": documents, "sha256": hasher.hexdigest()}, counts


def _read(dataset: Dataset, file: File) -> Iterator[tuple[Tokens, int]]:
    """The tokens of a verified Parquet file and their number of documents, some documents at a time."""
    content = dataset.read_verified(file)
    try:
        for batch in pq.ParquetFile(io.BytesIO(content)).iter_batches(batch_size=1_000, columns=["tokens"]):
            yield batch.column("tokens").flatten().to_numpy(), len(batch)
    except (pa.ArrowInvalid, KeyError) as error:
        where = dataset.lake.path(*dataset.names(file.path))
        raise InputError(f"{where}: not a table of tokens ({error})") from error


def _damage(folder: Path) -> str | None:
    """What is wrong with a cached corpus, or None. Hashes every byte, about one second per gigabyte."""
    with contextlib.suppress(OSError, orjson.JSONDecodeError, KeyError, TypeError):
        known = orjson.loads((folder / "corpus.json").read_bytes())
        if known["format"] != FORMAT:
            return f"its cache format is {known['format']}, not {FORMAT}"
        for split in SPLITS:
            with (folder / f"{split}.bin").open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != known[split]["sha256"]:
                    return f"{split}.bin does not match its sha256"
        return None
    return "damaged"
