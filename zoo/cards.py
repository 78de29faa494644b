"""The card of a checkpoint: how to build it, what it was trained on, what it scored, and how to recognise it."""

import dataclasses
import json
import math
import re
from pathlib import Path

from .._files import write_json
from .._nearest import unknown
from ..datasets.policies import DICOM_POLICIES

SCHEMA = 1
MULTI_LABEL = "multi-label classification"

_NUMBER = (int, float)
_TEXT_OR_NONE = (str, type(None))
_FIELDS = {
    "recipe": {"name": str, "command": str, "paper": str},
    "build": {"builder": str, "arguments": dict},
    "weights": {
        "file": str,
        "sha256": str,
        "bytes": int,
        "storage": str,
        "kind": str,
        "backbone": (dict, type(None)),
        "logit_difference": _NUMBER,
    },
    "input": {"shape": list, "range": list, "resize": str, "crop": _NUMBER, "dicom": str},
    "data": {
        "dataset": str,
        "licence": str,
        "url": _TEXT_OR_NONE,
        "images": int,
        "subjects": (int, type(None)),
        "subject_source": str,
        "split": dict,
        "excluded": object,
    },
}
_BACKBONE = {"name": str, "weights": str, "kernel_norms": dict}
_SPLIT = {"train": int, "validation": int, "test": int}
_METRIC = {
    "name": str,
    "part": str,
    "protocol": str,
    "value": _NUMBER,
    "low": _NUMBER,
    "high": _NUMBER,
    "n": int,
    "command": str,
    "machine": str,
}


@dataclasses.dataclass(frozen=True)
class Card:
    """What is known about a checkpoint, and all that is needed to rebuild it without running foreign code.

    Attributes:
        schema: version of this layout, 1.
        name: small letters, digits and hyphens.
        version: 1 for the first publication, one more for each later one.
        summary: one line for a listing.
        modality: such as `"ultrasound"`.
        task: such as `"classification"`; `"multi-label classification"` where classes do not exclude each other.
        recipe: `name`, `command` and `paper` that the checkpoint comes from.
        build: a registered `builder` and its `arguments`; never serialised code.
        weights: `file`, its `sha256` and `bytes`; `storage` `"float32"` or `"float16"` (tensors of rank two
            and more; the rest stays float32); `kind` `"whole"` or `"delta"`; for a delta the `backbone` that it
            lies on, `{name, weights, kernel_norms}`, with the L2 norm of every variable that the backbone
            supplies; `logit_difference`, the largest difference on the golden input between the logits before
            storing and after.
        input: `shape` (height, width, channels), `range` `[0, 255]`, `resize` (how images came to that shape; one of
            `medzoo.datasets.policies.FITS`, perhaps with more said behind it), `crop`, in (0, 1]: the share of height
            and width that the centre crop keeps of the resized image, 1.0 for the whole image, and `dicom`: the policy
            by which grey DICOM files are read, see `medzoo.datasets.read_image`.
        classes: class names in the order of their indices; the last is the positive one of two that exclude each other.
        data: `dataset`, `licence`, `url`, counts of `images` and `subjects` (None: no subject is known),
            `subject_source`, `split` (image counts of `train`, `validation`, `test`) and what was `excluded`.
        metrics: one mapping per number: `name, part, protocol, value, low, high, n, command, machine`, `low` and
            `high` being the bounds of the 95 % interval.
        golden: `seed` of the fixed input, `logits` (or `outputs`, of a model without logits) and the absolute
            `tolerance` within which any machine must reproduce them.
        licence: of the weights.
        limitations: what a user must know, one sentence each.
        created: ISO date.

    Raises:
        ValueError: a field is missing, unknown, of the wrong type or out of range; the message names it.
    """

    schema: int
    name: str
    version: int
    summary: str
    modality: str
    task: str
    recipe: dict
    build: dict
    weights: dict
    input: dict
    classes: list
    data: dict
    metrics: list
    golden: dict
    licence: str
    limitations: list
    created: str

    def __post_init__(self):
        types = {field.name: field.type for field in dataclasses.fields(self)}
        _check_fields(vars(self), types, "")
        for field, types in _FIELDS.items():
            _check_fields(getattr(self, field), types, f"{field}.")
        _check_fields(self.data["split"], _SPLIT, "data.split.")
        for index, metric in enumerate(self.metrics):
            _check_fields(metric, _METRIC, f"metrics[{index}].")
        result = "logits" if "logits" in self.golden else "outputs"
        _check_fields(self.golden, {"seed": int, result: list, "tolerance": _NUMBER}, "golden.")

        _expect(self.schema == SCHEMA, "schema", self.schema, f"{SCHEMA}")
        check_name(self.name)
        _expect(self.version >= 1, "version", self.version, "1 or more")
        _expect(
            Path(self.weights["file"]).name == self.weights["file"],
            "weights.file",
            self.weights["file"],
            "a file name without folders",
        )
        _expect(
            re.fullmatch("[0-9a-f]{64}", self.weights["sha256"]),
            "weights.sha256",
            self.weights["sha256"],
            "64 hexadecimal digits",
        )
        _expect(
            self.weights["storage"] in ("float32", "float16"),
            "weights.storage",
            self.weights["storage"],
            "'float32' or 'float16'",
        )
        _expect(self.weights["kind"] in ("whole", "delta"), "weights.kind", self.weights["kind"], "'whole' or 'delta'")
        if self.weights["kind"] == "delta":
            _expect(self.weights["backbone"] is not None, "weights.backbone", None, "the backbone of the delta")
            _check_fields(self.weights["backbone"], _BACKBONE, "weights.backbone.")
        else:
            _expect(
                self.weights["backbone"] is None,
                "weights.backbone",
                self.weights["backbone"],
                "null for a whole checkpoint",
            )
        shape = self.input["shape"]
        _expect(
            len(shape) == 3 and all(isinstance(size, int) and size > 0 for size in shape),
            "input.shape",
            shape,
            "[height, width, channels]",
        )
        _expect(self.input["range"] == [0, 255], "input.range", self.input["range"], "[0, 255]")
        _expect(0 < self.input["crop"] <= 1, "input.crop", self.input["crop"], "more than 0 and at most 1")
        if self.input["dicom"] not in DICOM_POLICIES:
            raise ValueError(f"card field 'input.dicom': {unknown('policy', self.input['dicom'], DICOM_POLICIES)}")
        expected = f"{MULTI_LABEL!r} if and only if build.arguments.multi_label is true"
        multi_label = bool(self.build["arguments"].get("multi_label"))
        _expect(self.multi_label == multi_label, "task", self.task, expected)
        count = self.build["arguments"].get("classes", len(self.classes))
        _expect(count == len(self.classes), "classes", self.classes, f"{count} names, as build.arguments has it")
        for index, metric in enumerate(self.metrics):
            inside = metric["low"] <= metric["value"] <= metric["high"]
            _expect(
                inside, f"metrics[{index}]", [metric[key] for key in ("low", "value", "high")], "low <= value <= high"
            )

    @property
    def multi_label(self):
        """Whether an image may have several of the classes, or none."""
        return self.task == MULTI_LABEL

    @classmethod
    def from_dict(cls, fields):
        """A card from the mapping that `json.load` gives; where `input.dicom` is missing, it is `"voi"`.

        Raises:
            ValueError: the first missing, unknown or wrong field, in one line.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        _check_names(fields, names, "")
        if isinstance(fields["input"], dict):  # before there were policies, all images were read by this one
            fields = {**fields, "input": {**fields["input"], "dicom": fields["input"].get("dicom", "voi")}}
        return cls(**fields)

    @classmethod
    def read(cls, path):
        """A card from a JSON file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not JSON, or not a card; the message names file and field.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file, expected the card of a checkpoint")
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(fields, dict) and isinstance(fields.get("input"), dict):
                fields["input"].setdefault("crop", 1.0)  # cards of medzoo 0.1 had no such field
            return cls.from_dict(fields)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def write(self, path):
        """Writes the card as JSON, whole or not at all."""
        write_json(path, dataclasses.asdict(self))


def check_name(name):
    """Refuses a name that is not made of small letters, digits and single hyphens.

    Raises:
        ValueError: in one line.
    """
    if not re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", name):
        raise ValueError(f"checkpoint name: received {name!r}, expected small letters, digits and hyphens")


def _expect(condition, field, received, expected):
    if not condition:
        raise ValueError(f"card field {field!r}: received {received!r}, expected {expected}")


def _check_names(fields, names, prefix):
    if not isinstance(fields, dict):
        raise ValueError(f"card field {prefix.rstrip('.') or 'card'!r}: received {fields!r}, expected a mapping")
    for name in names:
        if name not in fields:
            raise ValueError(f"card field {prefix + name!r} is missing")
    for name in fields:
        if name not in names:
            raise ValueError(f"card field {prefix + name!r} is unknown, expected only {', '.join(names)}")


def _check_fields(fields, types, prefix):
    _check_names(fields, list(types), prefix)
    for name, expected in types.items():
        value = fields[name]
        finite = not isinstance(value, float) or math.isfinite(value)
        if not isinstance(value, expected) or isinstance(value, bool) or not finite:
            kinds = expected if isinstance(expected, tuple) else (expected,)
            wanted = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            raise ValueError(f"card field {prefix + name!r}: received {value!r}, expected a finite {wanted}")
