"""What a study moves where: a file with a line a dataset."""

import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from .. import datasets
from .._nearest import require


@dataclass(frozen=True)
class Line:
    """One line of the grid's file."""

    role: str
    name: str
    dataset: str
    data: str

    def holds(self, other):
        """Whether it is the same dataset, whatever the two are named."""
        return (self.dataset, self.data) == (other.dataset, other.data)


def read_grid(file, roles):
    """The datasets of a grid.

    Args:
        file: path of a CSV file with the columns `role`, `dataset`, `data` and, where wanted, `name`.
        roles: that a line may have; `source` and `target` must be there.

    Returns:
        list of `Line`. Relative paths in `data` count from the file's folder.

    Raises:
        FileNotFoundError: no such file.
        ValueError: for other columns, an empty cell, an unknown role or reader, no source or no target, a name that is
            there twice or cannot be a folder's.
    """
    file = Path(file).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file, expected a CSV file with the columns role, dataset, data")
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, index_col=False)
    except (ValueError, pd.errors.ParserError) as error:
        raise ValueError(f"{file}: not a CSV file ({error})") from error
    table = table.apply(lambda column: column.fillna("").str.strip()).rename(columns=str.strip)
    table = table[(table != "").any(axis=1)]
    columns = {"role", "dataset", "data"}
    if set(table.columns) - {"name"} != columns:
        raise ValueError(
            f"{file}: received the columns {', '.join(table.columns)}, expected role, dataset, data and perhaps name"
        )
    found = []
    for row in table.to_dict("records"):
        require(f"role in {file}", row["role"], roles)
        require(f"dataset in {file}", row["dataset"], datasets.list_datasets())
        if not row["data"]:
            raise ValueError(f"{file}: received no data for the {row['role']} {row['dataset']}, expected a path")
        data = Path(row["data"]).expanduser()
        data = (file.parent / data).resolve()  # one folder, one name, by whatever way it was reached
        found.append(Line(row["role"], row.get("name") or row["dataset"], row["dataset"], str(data)))
    for each in found:
        # Names are folders, and those of sources stand beside these two in tables.
        if each.name in ("random", "imagenet") or not re.fullmatch(r"\w[\w.-]*", each.name):
            raise ValueError(
                f"{file}: received the name {each.name!r}, expected letters and digits, not 'random' or 'imagenet'"
            )
    for role in ("source", "target"):
        names = [each.name for each in found if each.role == role]
        if not names:
            raise ValueError(f"{file}: received no {role}, expected one or more")
        if len(names) > len(set(names)):
            raise ValueError(f"{file}: received two {role}s named {max(names, key=names.count)!r}, expected one")
    for name in {each.name for each in found}:
        if len({(each.dataset, each.data) for each in found if each.name == name}) > 1:
            raise ValueError(
                f"{file}: received two datasets named {name!r}, expected a column 'name' to tell them apart"
            )
    return found
