"""A small part, for tests that need a dataset but not a stage."""

import pyarrow as pa

from data.lake.manifest import Part
from data.lake.store import Dataset, write_parquet


def make_part(dataset: Dataset, values: list[int], name: str) -> Part:
    table = pa.table({"value": pa.array(values, pa.int64())})
    with dataset.lake.scratch() as folder:
        file = folder / "rows.parquet"
        write_parquet(table, file)
        return dataset.seal(
            name, {f"{name}.parquet": file}, table, counts={"ok": len(values)}, extra={"total": sum(values)}
        )
