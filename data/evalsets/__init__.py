"""The files of the official benchmarks, as their authors publish them, read into examples. No model is involved here.

``files`` finds a set's file by name, in the directory of ``--eval-data`` or one level below. The other modules read one
set or family each. A score carries the sha256 of its file.
"""
