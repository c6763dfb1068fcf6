"""The files of the official benchmarks, as their authors publish them, read into examples. No model is involved here.

``registry`` lists the sets with their origin, digests and counts, ``official`` compares files with it. ``files`` finds
a set's file by name, in the directory of ``--eval-data`` or one level below. The other modules read one set or family
each, by the rules of ``lines`` and ``detokenizers``. A score carries the sha256 of its file.
"""
