"""What the recipes' reports and cards have in common: tables, predictions, and what of a score needs no image."""

import numpy as np
import pandas as pd

from .. import analysis, datasets
from ..training.run import interval_columns, interval_text, leaked

# Columns of an image table that stand in a file of predictions, where the table has them.
KEPT = ("image", "subject", "label", "split", "site", "machine")


def kept_columns(table, rows):
    """The `KEPT` columns of some rows of an image table, numbered from 0."""
    return table.iloc[rows][[name for name in KEPT if name in table]].reset_index(drop=True)


def predict(model, batches):
    """Outputs of a model on batches in order, (n, ...)."""
    # Compiled once for all batches; `predict` would compile anew for every model.
    return np.concatenate([np.asarray(model.predict_on_batch(batches[index][0])) for index in range(len(batches))])


def read_predictions(file):
    """A file of predictions; a label such as "None" is one."""
    return pd.read_csv(file, dtype=dict.fromkeys(KEPT, str), keep_default_na=False)


def is_present(labels, output, table):
    """0 or 1 for each label of an image table: whether it is, or holds, `output`."""
    several = datasets.is_multi_label(table)
    return np.array([output in label.split("|") if several else output == label for label in labels], dtype=int)


def table_row(*cells):
    """A row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def as_text(interval):
    """A share with its interval."""
    return interval_text("share", interval_columns("share", interval._asdict()))


def difference_text(row):
    """A paired difference of AUCs in points of 0.01 with its interval, of a row with `difference, low, high`."""
    return f"{100 * row['difference']:+.1f} ({100 * row['low']:+.1f} to {100 * row['high']:+.1f})"


def verdict(row, trainings):
    """Whether a paired difference is shown: its interval leaves out 0, and each of several trainings has its sign.

    Args:
        row: mapping with `low, high` of the interval, and `least, greatest` of the trainings.
        trainings: how many.

    Returns:
        `"more"`, `"less"` or `"not shown"`.
    """
    if trainings == 1:
        return "not shown"
    if row["low"] > 0 and row["least"] > 0:
        return "more"
    return "less" if row["high"] < 0 and row["greatest"] < 0 else "not shown"


def leak_limitation(table):
    """What a card must say of subjects on both sides of the split."""
    images, n = leaked(table)
    return [f"{images} of the {n} test images are of subjects in the training part: it flatters."] if images else []


def table_auc(table):
    """Test AUC of a random forest on site, machine, age and view; None where the table has no site or machine."""
    if datasets.is_multi_label(table) or not {"site", "machine"} & set(table.columns):
        return None
    test = table[table["split"] == "test"]
    labels = is_present(test["label"], table.attrs["classes"][-1], table)
    return analysis.auc(labels, analysis.table_scores(table), test["subject"].to_numpy())


def table_limitation(table):
    """What a card must say where the table without images tells something."""
    area = table_auc(table)
    return (
        [f"On the same test part a random forest on the table without images reaches {as_text(area)}."] if area else []
    )


def shortcut_lines(table, scores):
    """What test AUCs owe to where an image comes from: within machines and sites, and from the table alone.

    Args:
        table: image table with the column `split`.
        scores: mapping of title to a DataFrame of the test part's predictions (`KEPT` columns) whose column `score` is
            that of the positive class.

    Returns:
        list of str, Markdown lines; none where the table has neither machines nor sites.
    """
    known = [name for name in ("machine", "site") if name in table]
    if datasets.is_multi_label(table) or not known:
        return []
    columns = "|".join(f" within {name}s " for name in known)
    lines = ["", "What needs no image:", "", f"| network |{columns}|", "|---|" + "---|" * len(known)]
    for title, rows in scores.items():
        labels = is_present(rows["label"], table.attrs["classes"][-1], table)
        cells = []
        for column in known:
            both = pd.Series(labels).groupby(rows[column].to_numpy()).nunique().max() == 2
            arguments = labels, rows["score"].to_numpy(), rows[column].to_numpy(), rows["subject"].to_numpy()
            area = analysis.auc_within(*arguments) if both else None
            cells.append(f"{as_text(area)}, n = {area.n}" if both else f"no {column} has both classes")
        lines.append(table_row(title, *cells))
    area = table_auc(table)
    return [*lines, "", f"A random forest on the table without images reaches {as_text(area)}; n = {area.n}."]
