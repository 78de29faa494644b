"""How similar people find datasets: answers to questions about each, their majority, and where two datasets differ.

Section IV-B of van den Brandt and others, Cats, not CAT scans (arXiv 2107.05940): five students looked at nine images
of each dataset and answered six questions (natural or medical, grey or colour, objects or textures, of which kind, how
diverse, how many classes); "answers are combined via majority vote, and dataset similarity is calculated via the
Hamming distance".
"""

from itertools import product

import pandas as pd


def majority_answers(answers):
    """The answer that most experts gave, to each question about each dataset.

    Args:
        answers: DataFrame with the columns `expert` and `dataset` and one column for each question, a row for each
            expert and dataset. Answers are compared as they are; one that is missing (None, NaN) is no vote.

    Returns:
        DataFrame, a row for each dataset and question, both in the order of `answers`: `dataset`, `question`, `answer`,
        `votes` for it, `experts` who answered, and `tie`: whether another answer has as many votes. Of those that tie
        the one counts that sorts first as text, whoever gave it.

    Raises:
        ValueError: without these columns or a question, when an expert answers twice for a dataset or none answers a
            question about it.

    Example:

    ```python
    >>> answers = pd.DataFrame({"expert": [1, 2, 3], "dataset": "dtd", "origin": ["natural", "medical", "natural"]})
    >>> majority_answers(answers)["answer"].tolist()
    ['natural']
    ```
    """
    for name in ("expert", "dataset"):
        if name not in answers:
            raise ValueError(f"answers: received the columns {', '.join(map(str, answers))}, expected {name!r} too")
    questions = [name for name in answers if name not in ("expert", "dataset")]
    if not questions or not len(answers):
        raise ValueError(f"answers: received {len(answers)} rows of {len(questions)} questions, expected some of both")
    twice = answers[answers.duplicated(["expert", "dataset"])]
    if len(twice):
        expert, dataset = twice[["expert", "dataset"]].iloc[0]
        raise ValueError(f"answers: received two rows of expert {expert!r} on {dataset!r}, expected one")
    rows = []
    for (dataset, given), question in product(answers.groupby("dataset", sort=False), questions):
        counts = given[question].value_counts()
        if not len(counts):
            raise ValueError(f"answers: received none to {question!r} on {dataset!r}, expected one at least")
        most = counts.max()
        leading = sorted(counts.index[counts == most], key=str)
        rows.append((dataset, question, leading[0], int(most), int(counts.sum()), len(leading) > 1))
    return pd.DataFrame(rows, columns=["dataset", "question", "answer", "votes", "experts", "tie"])


def hamming_distances(answers):
    """The number of questions to which two datasets have different majority answers.

    Args:
        answers: as for `majority_answers`.

    Returns:
        DataFrame `source, target, distance`, a row for each ordered pair, a dataset and itself included.

    Raises:
        ValueError: as `majority_answers`.
    """
    majority = majority_answers(answers)
    by_dataset = {name: rows["answer"].tolist() for name, rows in majority.groupby("dataset", sort=False)}
    rows = [
        (source, target, sum(one != other for one, other in zip(by_dataset[source], by_dataset[target], strict=True)))
        for target, source in product(by_dataset, by_dataset)
    ]
    return pd.DataFrame(rows, columns=["source", "target", "distance"])
