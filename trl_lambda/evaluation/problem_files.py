"""Files of problems, row by row, each with the place that an error names."""

import codecs
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FILE_TYPES = (".parquet", ".jsonl")
EXAMPLE = '{"problem": "1+1=?", "answers": ["2"]}'

# UTF-32's first, because its little-endian mark begins with UTF-16's.
_OTHER_MARKS = {
    "UTF-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "UTF-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}

Row = tuple[str, Mapping[str, Any]]  # where it stands, and its values by column


def read_rows(path: Path) -> Iterator[Row]:
    """Yields the rows of a Parquet or JSON Lines file, each with its place.

    JSON Lines are UTF-8, with or without byte order marks; blank lines are passed over.

    Raises:
        ValueError: The file has another ending, cannot be read, or a line is no JSON object; the
            message names the file and the line.
        OSError: There is no such file, or it may not be read.
    """
    if path.suffix not in FILE_TYPES:
        raise ValueError(f"{path}: expected a file that ends in {' or '.join(FILE_TYPES)}.")
    return _parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path)


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    with path.open("rb") as file:
        try:
            rows = parquet.read_table(file).to_pylist()
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise ValueError(
                f"{path}: cannot be read as Parquet ({error}). The file may be cut off, or of "
                "another type."
            ) from error
    for index, row in enumerate(rows):
        yield f"{path}, row {index}", row


def _json_rows(path: Path) -> Iterator[Row]:
    data = path.read_bytes()
    for name, marks in _OTHER_MARKS.items():
        if data.startswith(marks):
            raise ValueError(f"{path}, line 1: {name}, by its byte order mark; expected UTF-8.")
    lines = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        # A mark at a later line is where two files were joined.
        line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip():
            place = f"{path}, line {number}"
            yield place, _json_row(line, place, is_torn=number == len(lines))


def _json_row(line: bytes, place: str, *, is_torn: bool) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        torn = " The line has no end, so the file may be cut off." if is_torn else ""
        raise ValueError(
            f"{place}: no JSON ({error}).{torn} Expected one object a line, such as {EXAMPLE}."
        ) from error
    if not isinstance(row, dict):
        raise ValueError(
            f"{place}: {type(row).__name__} {str(row)[:60]!r}, expected one object a line, such as "
            f"{EXAMPLE}."
        )
    return row
