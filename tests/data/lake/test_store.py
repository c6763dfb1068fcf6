"""The lake on disk and in an object store: publishing, sealing, verifying, refusing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from data.errors import InputError
from data.lake.names import base_snapshot, check_name, part_name
from data.lake.store import Lake
from tests.data.lake.parts import make_part


def test_a_dataset_exists_only_once_its_manifest_is_published(lake: Lake) -> None:
    dataset = lake.dataset("text", "2026-11")
    assert dataset.begin({"a": 1}, {"pages": "d1"}) is None
    make_part(dataset, [1, 2], "part-00000")
    assert dataset.manifest() is None
    assert lake.snapshots("text") == []
    make_part(dataset, [3], "part-00001")
    manifest = dataset.finish(["part-00000", "part-00001"], {"workers": 2}, 1.0)
    assert lake.snapshots("text") == ["2026-11"]
    assert dataset.manifest() == manifest
    assert (manifest.rows_in, manifest.rows_out, manifest.counts, manifest.extra) == (3, 3, {"ok": 3}, {"total": 6})
    assert dataset.begin({"a": 1}, {"pages": "d1"}) == manifest
    assert dataset.read("part-00001.parquet")["value"].to_pylist() == [3]
    dataset.verify()


def test_other_settings_or_inputs_are_refused_with_the_difference(lake: Lake) -> None:
    dataset = lake.dataset("text", "2026-11")
    dataset.begin({"favor": "recall", "same": 1}, {"pages": "d1"})
    with pytest.raises(InputError, match=r"other settings \(favor: 'recall' -> 'precision'\)"):
        dataset.begin({"favor": "precision", "same": 1}, {"pages": "d1"})
    with pytest.raises(InputError, match=r"other inputs \(pages: 'd1' -> 'd2'\)"):
        dataset.begin({"favor": "recall", "same": 1}, {"pages": "d2"})


def test_a_flipped_byte_is_detected_and_the_error_names_the_file(lake: Lake) -> None:
    dataset = lake.dataset("tokens", "demo")
    dataset.begin({}, {})
    (file,) = make_part(dataset, list(range(100)), "part-00000").files
    dataset.finish(["part-00000"], {}, 0.0)
    path = lake.path("tokens", "demo", "part-00000.parquet")
    body = bytearray(lake.fs.cat_file(path))
    assert dataset.read_verified(file) == body
    body[len(body) // 2] ^= 1
    lake.fs.pipe_file(path, bytes(body))
    with pytest.raises(InputError, match=r"tokens/demo/part-00000\.parquet: sha256 is"):
        dataset.verify()
    with pytest.raises(InputError, match=r"tokens/demo/part-00000\.parquet: sha256 is"):
        dataset.read_verified(file)


def test_the_digest_depends_only_on_rows_settings_and_inputs(lake: Lake) -> None:
    digests = []
    for snapshot, settings, inputs, values in [
        ("one", {"a": 1}, {"x": "1"}, [1, 2]),
        ("two", {"a": 1}, {"x": "1"}, [1, 2]),
        ("other-settings", {"a": 2}, {"x": "1"}, [1, 2]),
        ("other-inputs", {"a": 1}, {"x": "2"}, [1, 2]),
        ("other-rows", {"a": 1}, {"x": "1"}, [2, 1]),
    ]:
        dataset = lake.dataset("text", snapshot)
        dataset.begin(settings, inputs)
        make_part(dataset, values, "part-00000")
        digests.append(dataset.finish(["part-00000"], {"workers": len(snapshot)}, 1.0).digest)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4


def test_a_sealed_part_with_a_missing_file_counts_as_unsealed(lake: Lake) -> None:
    dataset = lake.dataset("text", "demo")
    dataset.begin({}, {})
    make_part(dataset, [1], "part-00000")
    make_part(dataset, [2], "part-00001")
    lake.remove("text", "demo", "part-00000.parquet")
    assert list(dataset.sealed()) == ["part-00001"]


def test_a_directory_is_published_atomically(lake: Lake, tmp_path: Path) -> None:
    local = tmp_path / "step-1"
    (local / "sub").mkdir(parents=True)
    (local / "weights").write_bytes(b"w")
    (local / "sub" / "state").write_bytes(b"s")
    (local / "_done").write_bytes(b"")
    lake.publish_directory(local, "checkpoints", "run", "step-1")
    assert lake.names("checkpoints", "run", "step-1") == ["_done", "sub", "weights"]
    assert lake.open("checkpoints", "run", "step-1", "sub", "state").read() == b"s"


def test_a_missing_dataset_is_reported_with_the_published_ones(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    with pytest.raises(InputError, match=r"tokens/2026-11: no such dataset .*published: none"):
        lake.dataset("tokens", "2026-11").require()


def test_a_manifest_of_another_format_is_refused(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.publish_json({"format": 0}, "links", "old", "_manifest.json")
    with pytest.raises(InputError, match=r"lake format 0, this program reads format 1"):
        lake.dataset("links", "old").manifest()


def test_sweep_removes_only_the_scratch_of_killed_processes(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with lake.scratch() as mine:
        host = mine.name.rpartition(f"-{os.getpid()}-")[0]
        (tmp_path / "tmp" / f"{host}-{dead.pid}-old").mkdir()
        (tmp_path / "tmp" / f"elsewhere-{dead.pid}-live").mkdir()
        lake.sweep()
        assert {p.name for p in (tmp_path / "tmp").iterdir()} == {mine.name, f"elsewhere-{dead.pid}-live"}


def test_a_killed_process_releases_its_lock_and_loses_one_part(tmp_path: Path) -> None:
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from tests.data.lake.parts import make_part
from data.lake.store import Lake, write_parquet
lake = Lake({str(tmp_path)!r})
dataset = lake.dataset("text", "demo")
with lake.lock("refresh-demo"):
    dataset.begin({{}}, {{}})
    make_part(dataset, [1, 2], "part-00000")
    with lake.scratch() as folder:
        (folder / "half").write_bytes(b"x")
        os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    lake = Lake(tmp_path)
    lake.sweep()
    with lake.lock("refresh-demo"):
        dataset = lake.dataset("text", "demo")
        assert dataset.begin({}, {}) is None
        assert list(dataset.sealed()) == ["part-00000"]
        assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "a@"])
def test_invalid_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="is not a valid snapshot name"):
        check_name("snapshot", name)


def test_names_are_built_and_checked() -> None:
    assert base_snapshot("2026-11@gopher") == base_snapshot("2026-11") == "2026-11"
    assert [part_name(3), part_name(3, 1)] == ["part-00003", "part-1-00003"]
    assert check_name("run", "124M_a-b.c") == "124M_a-b.c"


def test_records_excluded_by_name_are_not_read(lake: Lake) -> None:
    """A task that reads its segments' records ignores records that another task is removing."""
    dataset = lake.dataset("text", "2026-11")
    assert dataset.begin({}, {}) is None
    make_part(dataset, [1], "part-00000")
    lake.publish_json({"torn": True}, *dataset.names("_parts", "other.json"))
    assert list(dataset.sealed(lambda name: name.startswith("part-"))) == ["part-00000"]
