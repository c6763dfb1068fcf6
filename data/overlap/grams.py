"""The 8-grams of texts as 64-bit numbers, and a Bloom filter that tells which of them may be in a set.

Text is normalised as in the paper: lower-cased alphanumeric words with single spaces between them. Everything works on
the UTF-8 bytes of many documents at once, because a loop over the words in Python would cost 20 times as much.

A word's hash covers its first and last eight bytes and its length, and an 8-gram's hash is a polynomial of the hashes
of its words. Long words that differ only in the middle collide. Whoever needs certainty compares the strings.

Source: Radford et al. 2019, section 4: 8-grams in Bloom filters with a false positive rate of at most 1e-8.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

GRAM_WORDS = 8

U64 = npt.NDArray[np.uint64]
U8 = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]

_SPACE = 0x20
_PAD = b" " * 16  # so that eight bytes can be read at both ends of every word
_ASCII = bytes(ord(chr(b).lower()) if chr(b).isalnum() else _SPACE for b in range(128)) + bytes(range(128, 256))
_LAST_LETTER = 0x3_FFFF  # no plane beyond has letters or digits
_FIRST, _LAST, _LENGTH, _MIX = (
    np.uint64(k) for k in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)
)  # odd numbers without a pattern
_SEVERAL = np.uint8(2)  # a tag is odd
_BASE = 0xBF58476D1CE4E5B9  # of the polynomial
_POWERS = [(words, np.uint64(pow(_BASE, words, 1 << 64))) for words in (1, 2, 4)]


@dataclass(frozen=True)
class Grams:
    """The 8-grams of some documents in order; number i is the words i to i + 7, which may cross documents."""

    hashes: U64
    starts: Indices  # of every word, in ``normal``
    ends: Indices
    normal: bytes  # lower-cased words with one or more spaces between them
    first_words: Indices  # the number of each document's first word, and at the end the number of all words

    def documents(self, grams: Indices) -> Indices:
        """The document of each of these 8-grams; -1 if it begins in one and ends in another."""
        first = np.searchsorted(self.first_words, grams, side="right") - 1
        last = np.searchsorted(self.first_words, grams + GRAM_WORDS - 1, side="right") - 1
        return np.where(first == last, first, -1)

    def string(self, gram: int) -> bytes:
        """The words of an 8-gram with single spaces."""
        return b" ".join(self.normal[self.starts[gram] : self.ends[gram + GRAM_WORDS - 1]].split())


def grams(texts: pa.StringArray) -> Grams:
    """All 8-grams of some documents, none of which is null. Cheapest for some 50 documents at once.

    A letter whose lower case has another length in UTF-8 stays as it is; some 20 are so, such as the Kelvin sign.
    """
    sizes = np.asarray(pc.binary_length(texts), dtype=np.int64) + 1  # and a line feed
    one_list = pa.ListArray.from_arrays(pa.array([0, len(texts)], pa.int32()), texts)
    joined = pc.binary_join(one_list, "\n")[0].as_buffer()
    normal = _normal(b"".join((_PAD, joined, _PAD)))
    is_space = normal == _SPACE
    bounds = np.flatnonzero(is_space[:-1] != is_space[1:]) + 1  # starts and ends in turn
    starts, ends = bounds[::2].copy(), bounds[1::2].copy()
    begins = len(_PAD) + np.concatenate([[0], np.cumsum(sizes)])
    hashes = _gram_hashes(_word_hashes(normal, starts, ends))
    return Grams(hashes, starts, ends, normal.tobytes(), np.searchsorted(starts, begins))


def _normal(text: bytes) -> U8:
    """The text with small letters, and spaces for every character that is no letter or digit."""
    normal = np.frombuffer(bytearray(text.translate(_ASCII)), dtype=np.uint8)
    leads = np.flatnonzero(normal >= 0xC0)
    if len(leads):
        _normalise_wide(normal, leads)
    return normal


def _normalise_wide(normal: U8, leads: Indices) -> None:
    """Replace the characters of several bytes, which begin at ``leads``."""
    first = normal[leads]
    for size, low, high, mask in ((2, 0xC0, 0xE0, 0x1F), (3, 0xE0, 0xF0, 0x0F), (4, 0xF0, 0xFF, 0x07)):
        at = leads[(first >= low) & (first < high)]
        if not len(at):
            continue
        point = (normal[at] & mask).astype(np.int32)
        for k in range(1, size):
            point = point << 6 | (normal[at + k] & 0x3F)
        lower = _lower_case()[np.minimum(point, _LAST_LETTER)]
        separators = at[lower == 0]
        for k in range(size):
            normal[separators + k] = _SPACE
        is_other = (lower != 0) & (lower != point)
        at, lower = at[is_other], lower[is_other]
        for k in range(size - 1, 0, -1):
            normal[at + k] = 0x80 | (lower & 0x3F)
            lower = lower >> 6
        normal[at] = (0xFF00 >> size) & 0xFF | lower


@functools.cache
def _lower_case() -> npt.NDArray[np.int32]:
    """The lower case of each code point, 0 for what is no letter or digit."""
    table = np.zeros(_LAST_LETTER + 1, dtype=np.int32)
    for point in range(_LAST_LETTER):
        character = chr(point)
        if character.isalnum():
            lower = character.lower()
            is_same_size = len(lower) == 1 and len(lower.encode()) == len(character.encode())
            table[point] = ord(lower) if is_same_size else point
    return table


def _word_hashes(normal: U8, starts: Indices, ends: Indices) -> U64:
    """One number per word. Most operations are in place, because new arrays push the others out of the cache."""
    eights: U64 = np.ndarray((len(normal) - 7,), dtype="<u8", buffer=normal.data, strides=(1,))  # at every byte
    lengths = ends - starts
    missing_bits = lengths * -8
    missing_bits += 64
    np.maximum(missing_bits, 0, out=missing_bits)
    hashes = eights[starts]
    hashes <<= missing_bits.view(np.uint64)  # the first byte is the lowest: drops what follows a short word
    hashes *= _FIRST
    is_long = np.flatnonzero(lengths > 8)
    hashes[is_long] ^= eights[ends[is_long] - 8] * _LAST
    hashes += lengths.view(np.uint64) * _LENGTH
    hashes ^= hashes >> np.uint64(32)
    hashes *= _MIX
    return hashes


def _gram_hashes(words: U64) -> U64:
    """Sums over eight words, each times a power of the base: of two words, of four, of eight."""
    found = words
    for shift, power in _POWERS:
        if len(found) <= shift:
            return found[:0]
        sums = found[:-shift] * power
        sums += found[shift:]
        found = sums
    found ^= found >> np.uint64(29)
    found *= _MIX
    return found


class BloomFilter:
    """A set of 64-bit hashes that never misses a member and finds another at most once in 10^8 queries.

    It has 64 to 128 bits per member and 10 probes: (1 - exp(-10 / 64)) ** 10 = 4e-9. A table of tags comes before it,
    small enough for the cache: one byte of the member that has the slot. It leaves one or two queries in a hundred.
    """

    PROBES = 10

    def __init__(self, members: U64) -> None:
        members = np.unique(members)
        self.bits = max(10, (64 * len(members) - 1).bit_length())
        is_set = np.zeros(1 << self.bits, dtype=np.bool_)
        for probe in range(self.PROBES):
            is_set[self._places(members, probe).view(np.int64)] = True
        self._words = np.packbits(is_set, bitorder="little").view("<u8")
        self._slot_shift = np.uint64(64 - max(8, self.bits - 4))
        slots, first, count = np.unique(members >> self._slot_shift, return_index=True, return_counts=True)
        self._tags = np.zeros(1 << (64 - int(self._slot_shift)), dtype=np.uint8)
        self._tags[slots.view(np.int64)] = np.where(count == 1, members[first].view(np.uint8)[::8] | 1, _SEVERAL)

    def _tagged(self, hashes: U64) -> Indices:
        """The indices of the hashes whose slot has their tag, or several members."""
        tags = self._tags.take((hashes >> self._slot_shift).view(np.int64))
        return np.flatnonzero((tags == (hashes.view(np.uint8)[::8] | 1)) | (tags == _SEVERAL))

    def _places(self, hashes: U64, probe: int) -> U64:
        """Double hashing (Kirsch and Mitzenmacher, 2006): the high bits, after steps that come from the low bits."""
        if probe:
            step = (hashes << np.uint64(32)) | np.uint64(1 << 31)
            hashes = hashes + np.uint64(probe) * step
        return hashes >> np.uint64(64 - self.bits)

    def find(self, hashes: U64) -> Indices:
        """The indices of the hashes that may be members."""
        found = self._tagged(hashes)
        for probe in range(self.PROBES):
            if not len(found):
                break
            places = self._places(hashes[found], probe)
            words = self._words.take((places >> np.uint64(6)).view(np.int64))
            found = found[((words >> (places & np.uint64(63))) & np.uint64(1)).astype(np.bool_)]
        return found
