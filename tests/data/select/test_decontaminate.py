"""A variant without evaluation sets drops what the overlap found, with a status and a reason, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.config import DecontaminateConfig, SelectConfig
from data.errors import InputError
from data.overlap import stage as overlap
from data.select import decontaminate
from data.select import stage as select_stage
from data.tokens import stage as tokens_stage
from tests.data.overlap.test_stage import CONFIG, SNAPSHOTS, make_corpus, training_documents, write_sets
from tests.data.select.test_stage import verdicts

CLEAN = "2026-10@clean"


def test_the_variant_drops_training_documents_with_thirteen_words_in_common(tmp_path: Path) -> None:
    lake = make_corpus(tmp_path, SNAPSHOTS[:1])
    found = overlap.run(lake, SNAPSHOTS[:1], write_sets(tmp_path / "sets")).manifest
    result = decontaminate.run(lake, "2026-10", CLEAN, found.snapshot, DecontaminateConfig())
    before, after = verdicts(lake, "2026-10"), verdicts(lake, CLEAN)
    training = training_documents(lake, SNAPSHOTS[:1])
    dataset = lake.dataset("overlap", found.snapshot)
    longest: dict[bytes, int] = {}
    for part in found.parts[:-1]:
        for one in dataset.read(f"{part.name}.parquet").to_pylist():
            longest[one["doc_id"]] = max(longest.get(one["doc_id"], 0), one["longest_words"])
    assert 9 in longest.values()  # too short to count
    dropped = {doc_id for doc_id, words in longest.items() if words >= 13}
    assert dropped < training.keys()
    assert {doc_id for doc_id, one in after.items() if one["status"] == "contaminated"} == dropped
    for doc_id, one in after.items():
        if doc_id in dropped:
            assert one["reason"] in {
                f"{longest[doc_id]} words in common with {s}" for s in ("lambada", "wikitext2_valid")
            }
        else:
            assert one == before[doc_id]
    assert result.manifest.counts["contaminated"] == len(dropped)
    assert result.manifest.rows_in == len(before)

    tokens_stage.run(lake, CLEAN, CONFIG)
    files = [file.path for part in lake.dataset("tokens", CLEAN).require().parts for file in part.files]
    kept = {key for path in files for key in lake.dataset("tokens", CLEAN).read(path)["doc_id"].to_pylist()}
    assert kept == {doc_id for doc_id, one in before.items() if one["status"] == "ok"} - dropped
    assert decontaminate.run(lake, "2026-10", CLEAN, found.snapshot, DecontaminateConfig()).skipped


def test_a_variant_is_not_mixed_with_another_nor_used_as_history(tmp_path: Path) -> None:
    lake = make_corpus(tmp_path)
    found = overlap.run(lake, SNAPSHOTS[:1], write_sets(tmp_path / "sets")).manifest
    decontaminate.run(lake, "2026-10", CLEAN, found.snapshot, DecontaminateConfig())
    with pytest.raises(InputError, match=r"select/2026-10@clean .* was made with other settings"):
        select_stage.run(lake, CLEAN, None, SelectConfig())
    with pytest.raises(InputError, match="select/2026-10@clean has another MinHash scheme"):
        select_stage.run(lake, "2026-11@clean", None, SelectConfig())
    with pytest.raises(InputError, match="--decontaminate clean: 2026-10@clean has this name"):
        decontaminate.run(lake, CLEAN, CLEAN, found.snapshot, DecontaminateConfig())
    with pytest.raises(InputError, match="overlap/none: no such dataset"):
        decontaminate.run(lake, "2026-10", "2026-10@other", "none", DecontaminateConfig())
