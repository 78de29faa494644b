"""What datasets have in common that come with a list of their images: reading the list, and files that are missing."""

import csv
import warnings

from .images import image_files


def read_list(path, columns, dataset, delimiters=","):
    """The rows of a CSV file with a header.

    Args:
        path: the file (UTF-8).
        columns: names that the header must hold; others are kept too.
        dataset: what the file belongs to, for the errors.
        delimiters: what may stand between the cells; the first of these characters that the header holds does.

    Returns:
        List of (row number, mapping of column to stripped text); the header is row 1.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a column is missing, a row has another number of cells, or the file is not readable.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, expected the list of images that comes with {dataset}")
    rows = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            title = file.readline()
            delimiter = next((one for one in delimiters if one in title), delimiters[0])
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = [name.strip() for name in next(reader, [])]
            missing = [name for name in columns if name not in header]
            if missing:
                raise ValueError(
                    f"{path}: no column {missing[0]!r} among {', '.join(header) or 'nothing'}, "
                    f"expected the columns of {dataset}"
                )
            for number, cells in enumerate(reader, start=2):
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(header):
                    raise ValueError(
                        f"{path}: row {number}: {len(cells)} cells, expected {len(header)} as in the header"
                    )
                rows.append((number, dict(zip(header, (cell.strip() for cell in cells), strict=True))))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: row {len(rows) + 2}: not readable as CSV in UTF-8 ({error})") from error
    if not rows:
        raise ValueError(f"{path}: no rows below the header, expected one an image")
    return rows


def report_missing(missing, listed, where):
    """Warns of listed images that are not there; a partial copy of a large dataset is usual, an empty one a mistake.

    Args:
        missing: what was looked for and not found, as text; the first is named.
        listed: how many were listed.
        where: the folder in which they were looked for.

    Raises:
        FileNotFoundError: if none of the listed images is there.
    """
    if len(missing) == listed:
        raise FileNotFoundError(f"{where}: none of the {listed} listed images is there, expected such as {missing[0]}")
    if missing:
        warnings.warn(
            f"{where}: {len(missing)} of {listed} listed images are not there and left out, the first is {missing[0]}",
            stacklevel=3,
        )


def report_unlisted(unlisted, where):
    """Warns of image files that the list does not name; `unlisted` holds their paths."""
    if unlisted:
        warnings.warn(
            f"{where}: {len(unlisted)} image files are in no list and left out, the first is {min(unlisted)}",
            stacklevel=3,
        )


def find_originals(folder, suffixes, key):
    """Of each image one file, at whatever depth: the original where it is there in several formats.

    Args:
        folder: where to look.
        suffixes: of the original format, such as `(".pgm",)`.
        key: what of a path (`Path`) says which image it is, such as its stem.

    Returns:
        Mapping of key to path.

    Raises:
        ValueError: if two files of one format could be the same image.
    """
    files = {}
    for file in sorted(image_files(folder, recursive=True), key=lambda file: file.suffix.lower() not in suffixes):
        other = files.setdefault(key(file), file)
        if other != file and other.suffix.lower() == file.suffix.lower():
            raise ValueError(f"{other}: {file} could be the same image, expected one")
    return files
