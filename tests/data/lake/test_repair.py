"""A damaged or missing file: the message says what to remove, and nothing else is made again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from data.config import LinksConfig
from data.errors import InputError
from data.lake.store import Lake
from tests.data.lake.parts import make_part
from tests.data.links.dumps import build, dump, post

CONFIG = LinksConfig(part_links=4)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped bit": flip,
    "no JSON": lambda path: path.write_bytes(b"{"),
    "another record": lambda path: path.write_bytes(b'{"format": 1}'),
    "missing": Path.unlink,
}


@pytest.mark.parametrize(
    ("name", "damage", "message", "is_made_again"),
    [
        ("part-00001.parquet", "a flipped bit", "sha256 is", ["part-00001"]),
        ("part-00001.parquet", "missing", "missing from the lake", ["part-00001"]),
        ("source-00000.parquet", "a flipped bit", "sha256 is", ["source-00000"]),
        ("_parts/part-00001.json", "no JSON", "", ["part-00001"]),
        ("_parts/part-00001.json", "another record", "", ["part-00001"]),
        ("_manifest.json", "no JSON", "not JSON .*, damaged; restore it", []),
        ("_manifest.json", "another record", "damaged manifest", []),
        ("_begun.json", "no JSON", "not JSON .*, damaged; restore it", []),
    ],
)
def test_only_the_damaged_part_of_links_is_made_again_and_later_stages_stay_done(
    tmp_path: Path, name: str, damage: str, message: str, is_made_again: list[str]
) -> None:
    sources = [dump(tmp_path / f"{index}.ndjson", [post(10 * index + n) for n in range(8)]) for index in range(2)]
    lake = Lake(tmp_path / "lake")
    digest = build(tmp_path / "lake", sources, CONFIG).digest
    pages = lake.dataset("pages", "demo")
    pages.begin({}, {"links": digest})
    make_part(pages, [1], "part-00000")
    pages.finish(["part-00000"], {}, 0.0)

    folder = tmp_path / "lake" / "links" / "demo"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    DAMAGES[damage](folder / name)
    if message:  # a record is read again only once the manifest is gone
        with pytest.raises(InputError, match=message) as caught:
            build(tmp_path / "lake", sources, CONFIG)
        said = str(caught.value)
        assert str(folder / name) in said
        assert "everything" not in said
        assert ("links/demo/_manifest.json" in said) or name == "_manifest.json"
    else:
        (folder / "_manifest.json").unlink()
        with pytest.raises(InputError, match=r"part-00001\.json: .*damaged.*remove it and links/demo/_manifest\.json"):
            build(tmp_path / "lake", sources, CONFIG)

    (folder / name).unlink(missing_ok=True)
    (folder / "_manifest.json").unlink(missing_ok=True)
    assert build(tmp_path / "lake", sources, CONFIG).digest == digest
    made = {path for path, at in before.items() if path.stat().st_mtime_ns != at}
    assert {path.name.partition(".")[0] for path in made} <= {*is_made_again, "_manifest", "_begun"}
    assert pages.begin({}, {"links": digest}) is not None


def test_what_has_no_recipe_is_restored_from_a_copy(tmp_path: Path) -> None:
    """Removing tombstones would bring forgotten pages back."""
    lake = Lake(tmp_path)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "tombstones.json").write_bytes(b"{")
    with pytest.raises(InputError, match=r"tombstones\.json: not JSON \(.*\), damaged; restore it from a copy$"):
        lake.read_json("state", "tombstones.json")
    with pytest.raises(InputError, match=r"absent\.json: missing from the lake; restore it from a copy$"):
        lake.read_json("state", "absent.json")
