import dataclasses
import json
import os

import pytest
from medzoo.zoo import Card

WHOLE = {
    "file": "weights.safetensors",
    "sha256": "0" * 64,
    "bytes": 10,
    "storage": "float16",
    "kind": "whole",
    "backbone": None,
    "logit_difference": 0.001,
}
INPUT = {"shape": [12, 10, 3], "range": [0, 255], "resize": "bilinear", "crop": 1.0, "dicom": "window"}
GOLDEN = {"seed": 1, "logits": [[0.5], [0.25]], "tolerance": 0.001}


@pytest.fixture
def card_fields(fields):
    return {**fields, "schema": 1, "weights": dict(WHOLE), "input": dict(INPUT), "golden": dict(GOLDEN)}


def test_a_card_survives_json(card_fields, tmp_path):
    card = Card.from_dict(card_fields)
    card.write(tmp_path / "card.json")
    assert json.loads((tmp_path / "card.json").read_text()) == card_fields
    assert Card.read(tmp_path / "card.json") == card
    assert os.listdir(tmp_path) == ["card.json"]


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Card)])
def test_each_field_is_needed(card_fields, field):
    del card_fields[field]
    with pytest.raises(ValueError, match=f"'{field}' is missing") as error:
        Card.from_dict(card_fields)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "'colour' is unknown"),
        ({"schema": 2}, "'schema': received 2, expected 1"),
        ({"name": "DRS ResNet"}, "received 'DRS ResNet', expected small letters, digits and hyphens"),
        ({"name": "-drs"}, "received '-drs'"),
        ({"version": 0}, "'version': received 0, expected 1 or more"),
        ({"version": "1"}, "'version': received '1'"),
        ({"version": True}, "'version': received True"),
        ({"recipe": {"name": "drs", "command": "x"}}, "'recipe.paper' is missing"),
        ({"recipe": None}, "'recipe': received None, expected a finite dict"),
        ({"weights": {**WHOLE, "md5": "x"}}, "'weights.md5' is unknown"),
        ({"weights": {**WHOLE, "file": "../../weights.safetensors"}}, "'weights.file': received '../../"),
        ({"weights": {**WHOLE, "sha256": "12"}}, "'weights.sha256': received '12'"),
        ({"weights": {**WHOLE, "storage": "int8"}}, "'weights.storage': received 'int8'"),
        ({"weights": {**WHOLE, "kind": "delta"}}, "'weights.backbone': received None"),
        ({"weights": {**WHOLE, "backbone": {}}}, "'weights.backbone': received {}, expected null"),
        ({"weights": {**WHOLE, "logit_difference": float("nan")}}, "'weights.logit_difference': received nan"),
        ({"classes": ["a", "b", "c"]}, "'classes': .* expected 2 names"),
        ({"golden": {"seed": 1, "tolerance": 0.1}}, "'golden.outputs' is missing"),
        ({"input": {**INPUT, "shape": [12, 10]}}, "'input.shape': received"),
        ({"input": {**INPUT, "range": [0, 1]}}, "'input.range': received"),
        ({"input": {**INPUT, "crop": 0.0}}, "'input.crop': received 0.0, expected more than 0 and at most 1"),
        ({"input": {**INPUT, "crop": 1.01}}, "'input.crop': received 1.01"),
        ({"input": {**INPUT, "crop": True}}, "'input.crop': received True"),
        ({"input": {"shape": [12, 10, 3], "range": [0, 255], "resize": "x"}}, "'input.crop' is missing"),
        ({"input": {**INPUT, "dicom": 1}}, "'input.dicom': received 1, expected a finite str"),
        ({"input": {**INPUT, "dicom": "windw"}}, "'input.dicom': unknown policy 'windw': did you mean 'window'"),
        ({"task": "multi-label classification"}, "'task': received 'multi-label classification', expected .* if and"),
        ({"metrics": [{"name": "auc"}]}, r"'metrics\[0\].part' is missing"),
    ],
)
def test_a_wrong_field_is_named_in_one_line(card_fields, change, message):
    with pytest.raises(ValueError, match=message) as error:
        Card.from_dict({**card_fields, **change})
    assert "\n" not in str(error.value)


def test_an_old_card_read_dicom_by_the_policy_of_then(card_fields, tmp_path):
    del card_fields["input"]["dicom"]
    (tmp_path / "card.json").write_text(json.dumps(card_fields))
    assert Card.read(tmp_path / "card.json").input == {**INPUT, "dicom": "voi"}
    assert "dicom" not in card_fields["input"]


def test_a_card_of_several_labels(card_fields):
    assert not Card.from_dict(card_fields).multi_label
    card_fields["build"]["arguments"]["multi_label"] = True
    with pytest.raises(ValueError, match="'task': received 'classification', expected 'multi-label"):
        Card.from_dict(card_fields)
    assert Card.from_dict({**card_fields, "task": "multi-label classification"}).multi_label


def test_a_value_outside_its_interval_is_refused(card_fields):
    card_fields["metrics"][0]["value"] = 0.99
    with pytest.raises(ValueError, match=r"'metrics\[0\]': received \[0.8, 0.99, 0.95\]"):
        Card.from_dict(card_fields)


@pytest.mark.parametrize(("text", "message"), [("{", "Expecting"), ("[]", "expected a mapping"), ("{}", "missing")])
def test_a_damaged_file_is_named(tmp_path, text, message):
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(ValueError, match=rf"card\.json: .*{message}") as error:
        Card.read(tmp_path / "card.json")
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"card\.json: no such file"):
        Card.read(tmp_path / "card.json")
