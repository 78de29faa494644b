"""Experts' answers: majority and Hamming distances counted by hand."""

import numpy as np
import pandas as pd
import pytest
from medzoo.analysis import hamming_distances, majority_answers

# Three experts, three datasets, three questions.
ANSWERS = pd.DataFrame(
    [
        ("anna", "chest", "medical", "grey", 2),
        ("anna", "stl10", "natural", "colour", 10),
        ("anna", "pcam", "medical", "colour", 2),
        ("ben", "chest", "medical", "grey", 3),
        ("ben", "stl10", "natural", "colour", 9),
        ("ben", "pcam", "natural", "colour", 2),
        ("cleo", "chest", "natural", "grey", 3),
        ("cleo", "stl10", "natural", "grey", 8),
        ("cleo", "pcam", "medical", "colour", None),
    ],
    columns=["expert", "dataset", "origin", "colours", "classes"],
)


def answer(table, dataset, question):
    (row,) = table[(table["dataset"] == dataset) & (table["question"] == question)].itertuples(index=False)
    return row


def test_the_answer_of_most_experts_counts():
    table = majority_answers(ANSWERS)
    assert list(table.columns) == ["dataset", "question", "answer", "votes", "experts", "tie"]
    assert len(table) == 9
    assert answer(table, "chest", "origin")[2:] == ("medical", 2, 3, False)
    assert answer(table, "stl10", "colours")[2:] == ("colour", 2, 3, False)
    assert answer(table, "pcam", "classes")[2:] == (2, 2, 2, False)


def test_a_tie_is_told_and_does_not_depend_on_the_order_of_experts():
    found = answer(majority_answers(ANSWERS), "stl10", "classes")
    assert found[2:] == (10, 1, 3, True)  # "10" sorts before "8" and "9"
    turned = answer(majority_answers(ANSWERS[::-1]), "stl10", "classes")
    assert turned == found


def test_the_distance_is_the_number_of_questions_with_other_answers():
    table = hamming_distances(ANSWERS).set_index(["source", "target"])["distance"]
    assert len(table) == 9
    # Majorities: chest (medical, grey, 3), stl10 (natural, colour, 10), pcam (medical, colour, 2).
    assert table["chest", "stl10"] == table["stl10", "chest"] == 3
    assert table["chest", "pcam"] == 2
    assert table["stl10", "pcam"] == 2
    assert [table[name, name] for name in ("chest", "stl10", "pcam")] == [0, 0, 0]


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (ANSWERS.drop(columns="expert"), "expected 'expert' too"),
        (ANSWERS[["expert", "dataset"]], "received 9 rows of 0 questions"),
        (ANSWERS[:0], "received 0 rows of 3 questions"),
        (pd.concat([ANSWERS, ANSWERS[:1]]), "two rows of expert 'anna' on 'chest'"),
        (ANSWERS.assign(classes=np.where(ANSWERS["dataset"] == "pcam", None, "2")), "none to 'classes' on 'pcam'"),
    ],
)
def test_answers_that_do_not_fit_are_refused(answers, message):
    with pytest.raises(ValueError, match=message):
        majority_answers(answers)
