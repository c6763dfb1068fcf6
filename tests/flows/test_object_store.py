"""The whole pipeline with its lake in an object store: the same digests as on disk, and a model from it."""

from __future__ import annotations

import pytest

from data.lake.store import Lake
from flows.localweb import server as localweb
from tests.flows.serving import TINY, Pipeline, refresh_small

LAKE = "s3://corpus/pipeline"


@pytest.mark.slow
def test_a_lake_on_s3_has_the_digests_of_one_on_disk(
    pipeline: Pipeline, s3: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.evaluate import evaluate
    from flows.pretrain import pretrain

    monkeypatch.setenv("WEBTEXT_HOME", str(pipeline.home))
    with localweb.running(pipeline.home) as web:
        refreshed = refresh_small(pipeline.dump, LAKE, web.connect_to)
        again = refresh_small(pipeline.dump, LAKE, web.connect_to)
    for stage, on_disk in pipeline.refreshed.stages.items():
        assert refreshed.stages[stage].digest == on_disk.digest, stage
        assert refreshed.stages[stage].by_status == on_disk.by_status, stage
        assert not refreshed.stages[stage].skipped
        assert again.stages[stage].skipped
    trained = pretrain(["small"], "nano", "on-s3", LAKE, steps=20, overrides=TINY)
    assert trained.train_loss == pytest.approx(pipeline.trained.train_loss, abs=1e-6)
    assert trained.val_loss == pytest.approx(pipeline.trained.val_loss, abs=1e-6)
    assert Lake(LAKE).exists("checkpoints", "on-s3", "step-00000020", "state.json")
    scored = evaluate(run="on-s3", lake=LAKE, limit=40)
    assert scored.scores.keys() == pipeline.scored.scores.keys()
