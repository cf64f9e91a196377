"""Rows of a data set, or of a stream of them: which columns there are, and which rows to keep."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, IterableDataset

Data = Dataset | IterableDataset
logger = logging.getLogger(__name__)

SHOWN = 12  # values of a column that a message lists


def column_names(data: Data) -> list[str]:
    """The columns; a stream that does not declare them has those of its first row."""
    if data.column_names is not None:
        return list(data.column_names)
    return list(first_row(data, "The data set has no rows."))


def require_columns(data: Data, names: Iterable[str], option: str) -> None:
    """Raises ValueError for columns that are not there, and lists those that are."""
    names = list(names)
    there = column_names(data) if names else []
    for name in names:
        if name not in there:
            raise ValueError(
                f"{option} {name}: the data set has no such column; it has {', '.join(there)}."
            )


def filtered(
    data: Data,
    test: Callable[..., Any],
    options: Mapping[str, Any] | None = None,
    *,
    name: str,
    remedy: str,
    batched: bool = False,
) -> Data:
    """The rows that pass, and in the log how many did not.

    Raises:
        ValueError: none of a `Dataset` did.
    """
    options = dict(options or {})
    if isinstance(data, IterableDataset):
        return data.filter(_CountedTest(name, test, batched), fn_kwargs=options, batched=batched)
    left = data.filter(test, fn_kwargs=options, batched=batched)
    if len(left) == 0:
        raise ValueError(f"{name}: none of {len(data)} rows is left. {remedy}.")
    if len(left) < len(data):
        logger.info("%s: %d of %d rows left out.", name, len(data) - len(left), len(data))
    return left


class _CountedTest:
    """A test of a stream's rows that tells of the 1st, 10th, 100th … row it leaves out."""

    def __init__(self, name: str, test: Callable[..., Any], batched: bool):
        self.name, self.test, self.batched = name, test, batched
        self.read = self.left_out = 0
        self.next_told = 1

    def __call__(self, rows: Mapping[str, Any], **options: Any) -> Any:
        passed = self.test(rows, **options)
        results = passed if self.batched else [passed]
        self.read += len(results)
        self.left_out += len(results) - sum(results)
        if self.left_out >= self.next_told:
            logger.info(
                "%s: %d of %d rows read so far left out.", self.name, self.left_out, self.read
            )
            self.next_told = 10 ** len(str(self.left_out))
        return passed


def first_row(data: Data, if_none: str) -> dict[str, Any]:
    row = next(iter(data), None)
    if row is None:
        raise ValueError(if_none)
    return row


@dataclass(frozen=True)
class RowCondition:
    """A column's values that keep a row, or with `wanted=False` those that drop it."""

    column: str
    values: tuple[str, ...]
    wanted: bool = True

    @classmethod
    def parse(cls, text: str) -> RowCondition:
        """From `column=value1,value2` or `column!=value`; values with commas as a JSON list.

        Raises:
            ValueError: the text has another form.
        """
        column, equals, written = text.partition("=")
        wanted = not column.endswith("!")
        column, written = column.removesuffix("!").strip(), written.strip()
        values = _listed(written)
        if not (column and equals and values):
            raise ValueError(
                f"keep_rows {text!r}: expected column=value1,value2 or column!=value, and values "
                'with commas as a JSON list, column=["a,b"].'
            )
        return cls(column, values, wanted)

    def holds(self, cell: Any) -> bool:
        """Whether it keeps a row with this entry; of a list one element must match."""
        return self.wanted == any(text in self.values for text in _cell_texts(cell))

    def __str__(self) -> str:
        return f"{self.column}{'=' if self.wanted else '!='}{','.join(self.values)}"


def keep_rows(data: Data, conditions: Iterable[str]) -> Data:
    """The rows that meet all conditions, such as `level=Level 3,Level 4,Level 5`.

    Values are compared as texts: 3 and 3.0 are `3`, a missing one is `null`.

    Raises:
        ValueError: A condition of another form, a column that is not there, or no row left.
    """
    parsed = [RowCondition.parse(text) for text in conditions]
    require_columns(data, [condition.column for condition in parsed], "keep_rows")
    for condition in parsed:
        there = _values_there(data, condition)
        data = filtered(
            data,
            _meets,
            {"condition": condition},
            name=f"keep_rows {condition}",
            remedy=f"The column {condition.column} has {there}",
        )
    return data


# At the top of the module, so that `datasets` can cache what it gave.
def _meets(row: Mapping[str, Any], condition: RowCondition) -> bool:
    return condition.holds(row[condition.column])


def _listed(written: str) -> tuple[str, ...]:
    if written.startswith("["):
        try:
            return tuple(text for value in json.loads(written) for text in _cell_texts(value))
        except (json.JSONDecodeError, TypeError):
            return ()
    return tuple(filter(None, map(str.strip, written.split(","))))


def _cell_texts(cell: Any) -> list[str]:
    """An entry as texts to compare: those of its elements, if it is a list."""
    if isinstance(cell, list | tuple):
        return [text for element in cell for text in _cell_texts(element)]
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return [cell.strip() if isinstance(cell, str) else json.dumps(cell, default=str)]


def _values_there(data: Data, condition: RowCondition) -> str:
    """The column's values by frequency, for messages; warns of asked-for ones that are not there.

    They are not known for a stream.
    """
    if isinstance(data, IterableDataset):
        return "other values"
    found = Counter(text for cell in data[condition.column] for text in _cell_texts(cell))
    most = ", ".join(f"{value[:60]!r} ({n})" for value, n in found.most_common(SHOWN))
    listed = f"{most}{' and others' if len(found) > SHOWN else ''}"
    if missing := [value for value in condition.values if value not in found]:
        logger.warning(
            "keep_rows %s: no row has %s. The column has %s.",
            condition,
            ", ".join(map(repr, missing)),
            listed,
        )
    return listed
