"""Makes ``azure500.json.gz`` out of the data set's CSV files: ``python bench/replay/derive.py FOLDER``.

Azure Functions 2019, as published in Microsoft's AzurePublicDataset under CC-BY 4.0 and sampled in eth-easl/dirigent
(500 functions, minutes 480 to 959 of one day). Kept are what triggers each function, its calls in each minute, the
percentiles of their duration, and the memory of its application; names are cut to eight digits.
"""

import csv
import gzip
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SOURCE = "Azure Functions 2019 (AzurePublicDataset, CC-BY 4.0), as sampled in eth-easl/dirigent: 500 functions, 8 hours"
PERCENTS = (0, 1, 25, 50, 75, 99, 100)


def derive(folder: Path) -> dict[str, Any]:
    durations = {row["HashFunction"]: row for row in _rows(folder / "durations.csv")}
    memory = {row["HashFunction"]: row for row in _rows(folder / "memory.csv")}
    functions = [
        {
            "function": row["HashFunction"][:8],
            "trigger": row["Trigger"],
            "memory_mb": round(float(memory[row["HashFunction"]]["AverageAllocatedMb"]), 1),
            "duration_ms": [float(durations[row["HashFunction"]][f"percentile_Average_{p}"]) for p in PERCENTS],
            "per_minute": " ".join(_without_zeros(int(row[key]) for key in row if key.isdigit())),
        }
        for row in _rows(folder / "invocations.csv")
    ]
    return {"source": SOURCE, "percents": PERCENTS, "functions": functions}


def _rows(path: Path) -> Iterable[dict[str, str]]:
    with path.open(newline="") as file:
        yield from csv.DictReader(file)


def _without_zeros(counts: Iterable[int]) -> Iterable[str]:
    """``-7`` stands for seven minutes without a call."""
    zeros = 0
    for count in counts:
        if count == 0:
            zeros += 1
            continue
        if zeros:
            yield str(-zeros)
        zeros = 0
        yield str(count)
    if zeros:
        yield str(-zeros)


if __name__ == "__main__":
    text = json.dumps(derive(Path(sys.argv[1])), separators=(",", ":"))
    Path(__file__).with_name("azure500.json.gz").write_bytes(gzip.compress(text.encode(), 9, mtime=0))
