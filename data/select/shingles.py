"""What near-duplicates have in common: the shingles of a text, as hashes of 64 bits.

A shingle is a run of n words. Words are runs of ``\\w`` characters, case folded. Chinese, Japanese, Thai, Lao, Khmer
and Burmese put no spaces between words, so there a "word" would be a whole clause, and one changed character would
change every shingle around it. In these languages a shingle is a run of n characters, white space left out.

Speed: 150 to 180 microseconds for 730 words, 30 for 730 characters. Memory: the hashes of at most 2**18 distinct words
are remembered.

Source: Broder 1997, "On the resemblance and containment of documents".
"""

from __future__ import annotations

import functools
import hashlib
import re
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from data.config import SelectConfig

T = TypeVar("T", bound=np.generic)
U64 = npt.NDArray[np.uint64]
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd; 2**64 over the golden ratio (Knuth, multiplicative hashing)
WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "km", "my"})
"""Languages (ISO 639-1) that are shingled by characters. A change needs another name in stage.SCHEME."""

_WORD = re.compile(r"\w+")
_CODE = "utf-32-le"  # one uint32 per character
_MAX_WORDS = 2**18


def exact_hash(text: str) -> bytes:
    """16 bytes, the same for texts that differ only in case and white space. Such texts have the same shingles."""
    return hashlib.sha256(" ".join(text.casefold().split()).encode(errors="surrogatepass")).digest()[:16]


def shingles(text: str, language: str | None, config: SelectConfig) -> U64:
    """Hashes [n] of the text's shingles in order, repeated ones included. A shorter text, or none, is one shingle."""
    if language in WITHOUT_SPACES:
        return _runs(_mixed(_code_points("".join(text.casefold().split()))), config.char_ngram)
    words = _words(text) or [" ".join(text.split())]
    return _runs(np.frombuffer(b"".join(map(_hashes().__getitem__, words)), np.uint64), config.ngram)


def unique(values: npt.NDArray[T]) -> npt.NDArray[T]:
    """The distinct values, sorted. np.unique makes a hash table, which is ten times slower for millions."""
    values = np.sort(values)
    return values[np.concatenate([[True], values[1:] != values[:-1]])] if len(values) else values


def jaccard(a: U64, b: U64) -> float:
    """The exact Jaccard index of two sets, each sorted and without repetition."""
    shared = np.searchsorted(a, b)
    shared[shared == len(a)] = 0
    common = np.count_nonzero(a[shared] == b) if len(a) else 0
    union = len(a) + len(b) - common
    return float(common / union) if union else 1.0


def _runs(hashes: U64, length: int) -> U64:
    """A hash for each run of ``length`` elements; of all elements if they are fewer."""
    length = min(length, len(hashes))
    if not length:
        return np.zeros(1, dtype=np.uint64)
    n = len(hashes) - length + 1
    combined = hashes[:n] * MULTIPLIER
    for k in range(1, length):
        combined += hashes[k : k + n]
        combined *= MULTIPLIER  # modulo 2**64
    return combined


def _words(text: str) -> list[str]:
    """The runs of ``\\w`` characters. Twice as fast as the regular expression."""
    return np.take(_spaced(), _code_points(text.casefold())).tobytes().decode(_CODE, "surrogatepass").split()


def _code_points(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode(_CODE, "surrogatepass"), np.uint32)


def _mixed(points: npt.NDArray[np.uint32]) -> U64:
    """Neighbouring code points far apart: the finalizer of MurmurHash3 for 64 bits."""
    mixed = points.astype(np.uint64) + np.uint64(1)
    for multiplier in (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)):
        mixed ^= mixed >> np.uint64(33)
        mixed *= multiplier
    return mixed ^ (mixed >> np.uint64(33))


@functools.cache
def _spaced() -> npt.NDArray[np.uint32]:
    """Each code point itself if it is a ``\\w`` character, else a space. A quarter of a second, once per process."""
    points = np.arange(0x110000, dtype=np.uint32)
    is_word = np.zeros(len(points), dtype=np.bool_)
    for match in _WORD.finditer("".join(map(chr, range(len(points))))):
        is_word[match.start() : match.end()] = True
    return np.where(is_word, points, np.uint32(ord(" ")))


class _Hashes(dict[str, bytes]):
    """8 bytes for each word, computed when a word is first seen."""

    def __missing__(self, word: str) -> bytes:
        if len(self) >= _MAX_WORDS:
            self.clear()
        self[word] = found = hashlib.blake2b(word.encode(errors="surrogatepass"), digest_size=8).digest()
        return found


@functools.cache
def _hashes() -> _Hashes:
    return _Hashes()
