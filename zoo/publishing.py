"""From a finished run to a checkpoint that anyone loads by name, and to a release archive."""

import json
import zipfile
from pathlib import Path
from typing import NamedTuple

from .._files import atomic
from . import store
from .builders import build
from .cards import Card, check_name
from .checkpoints import WEIGHTS_FILE, backbone_share, load_weights, save_checkpoint
from .exporting import export

# A model is stored as a delta when less than this share of its bytes differs from its backbone.
DELTA_SHARE = 0.25


class Published(NamedTuple):
    """What `publish` wrote: the checkpoint's folder, the release archive, and the card."""

    folder: Path
    archive: Path
    card: Card


def publish(run, name, into=None, archive=None):
    """Makes a checkpoint of a run's model: `weights/NAME/` and a release archive with card, weights and SavedModel.

    Stored is a float32 delta on the ImageNet weights of the model's backbone when less than a quarter of it
    differs from them, else all of it in float16. A name published before gets the next version.

    Args:
        run: a run's folder. It holds `model/` (`card.json`, `weights.safetensors`, `saved_model/`), or exactly one
            such folder somewhere below.
        name: small letters, digits and hyphens.
        into: folder of checkpoints, by default the one packaged with medzoo.
        archive: path of the release archive, by default `releases/NAME-VERSION.zip` in the current folder.

    Returns:
        `Published(folder, archive, card)`.

    Raises:
        FileNotFoundError: the run holds no model, or a part of it is missing.
        FileExistsError: the archive exists.
        ValueError: the name or the draft of the card is wrong, the run holds several models, or storing the model
            changes its outputs.

    Example:

    ```python
    zoo.publish("runs/drs/drs_all", "drs-resnet18-busi")
    ```
    """
    check_name(name)
    source = model_folder(run)
    into = Path(into) if into is not None else store.WEIGHTS
    folder = into / name
    version = Card.read(folder / "card.json").version + 1 if (folder / "card.json").exists() else 1
    archive = Path(archive) if archive is not None else Path("releases") / f"{name}-{version}.zip"
    if archive.exists():
        raise FileExistsError(f"{archive}: received an archive that exists, expected a new file")
    saved_model = source / "saved_model"

    fields = {**_draft(source / "card.json"), "name": name, "version": version}
    model = build(fields["build"], weights=None)
    load_weights(model, source / WEIGHTS_FILE)
    if not (saved_model / "saved_model.pb").is_file():
        export(model, "saved_model", source)  # a run on another backend than TensorFlow has none
    arguments = fields["build"]["arguments"]
    delta = "backbone" in arguments and 1 - backbone_share(model, arguments) < DELTA_SHARE
    # The folder is in place before the archive: a failure in between leaves no archive without its checkpoint.
    with atomic(archive) as zipped, atomic(folder, marker="card.json") as temporary:
        card = save_checkpoint(model, temporary, fields, storage="float32" if delta else "float16", delta=delta)
        _write_archive(zipped, name, temporary, saved_model)
    return Published(folder, archive, card)


def model_folder(run):
    """The model folder of a run: `run/model`, or the only one below.

    Raises:
        FileNotFoundError: there is none.
        ValueError: there are several; the message lists the runs that hold them.
    """
    run = Path(run)
    if not run.is_dir():
        raise FileNotFoundError(f"{run}: no such folder, expected a run")
    if (run / "model" / "card.json").is_file():
        return run / "model"
    found = sorted(path.parent for path in run.rglob("model/card.json"))
    if not found:
        raise FileNotFoundError(f"{run}: received a folder without model/card.json, expected a finished run")
    if len(found) > 1:
        listed = ", ".join(str(path.parent) for path in found)
        raise ValueError(f"{run}: received a run with {len(found)} models, expected one of {listed}")
    return found[0]


def _draft(path):
    """The fields that the run knows; what belongs to a checkpoint alone is set when it is stored."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: received a damaged file ({error}), expected JSON") from None
    if not isinstance(fields, dict) or not {"builder", "arguments"} <= set(fields.get("build") or ()):
        raise ValueError(f"{path}: received no build.builder and build.arguments, expected the draft of a card")
    return fields


def _write_archive(path, name, folder, saved_model):
    """Zips card, weights and SavedModel below one folder, the same bytes for the same files."""
    members = {f"{name}/{file.name}": file for file in sorted(folder.iterdir())}
    for file in sorted(saved_model.rglob("*")):
        if file.is_file():
            members[f"{name}/saved_model/{file.relative_to(saved_model).as_posix()}"] = file
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for member, content in members.items():
            # A fixed date, so that the archive depends on its content alone.
            entry = zipfile.ZipInfo(member, (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            file.writestr(entry, content.read_bytes())
