"""Finds a checkpoint by name, folder, release archive or URL, and verifies it before anyone loads it."""

import hashlib
import importlib.util
import os
import re
import stat
import tempfile
import zipfile
import zlib
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

import pooch

from .. import _cache
from .._nearest import unknown
from .cards import Card

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"


def card(name):
    """The card of a checkpoint.

    Args:
        name: as for `medzoo.zoo.load`.

    Returns:
        a `Card`.

    Example:

    ```python
    zoo.card("drs-resnet18-busi").metrics
    ```
    """
    return Card.read(find(name) / "card.json")


def list_models(pattern="*", modality=None):
    """Names of the checkpoints at hand: the packaged ones, and those whose archives were loaded before.

    Args:
        pattern: shell wildcard over names, such as `"drs*"`.
        modality: only checkpoints for this modality, such as `"ultrasound"`.

    Returns:
        sorted list of names.
    """
    folders = _checkpoints()
    return sorted(
        name
        for name, folder in folders.items()
        if fnmatchcase(name, pattern) and (modality is None or Card.read(folder / "card.json").modality == modality)
    )


def find(name):
    """The folder of a checkpoint.

    Args:
        name: a checkpoint's name (packaged ones first, then those in the cache, the newest version), the path
            of its folder, or the path or http(s) address of its release archive. An archive is unpacked into
            the cache once; an address is fetched once.

    Returns:
        `Path` of a folder with `card.json` and the weights file.

    Raises:
        FileNotFoundError: there is no such folder or archive.
        ValueError: the name is unknown (the message has the nearest right one), or the archive is damaged,
            altered or unsafe.
        ConnectionError: the download failed or was cut off. Nothing of it is left then.
    """
    text = str(name)
    if re.match("https?://", text):
        return _from_url(text)
    if text.endswith(".zip"):
        return _from_archive(Path(text))
    if re.fullmatch("[a-z0-9-]+", text) and (WEIGHTS / text / "card.json").is_file():
        # A damaged or unwritable cache does not come between a user and what is packaged.
        return WEIGHTS / text
    folders = _checkpoints()
    if text in folders:
        return folders[text]
    path = Path(text)
    if path.is_dir() or len(path.parts) > 1:
        if not (path / "card.json").is_file():
            raise FileNotFoundError(f"{path}: received no folder of a checkpoint, expected card.json in it")
        return path
    raise ValueError(unknown("checkpoint", text, folders))


def check_weights(folder, record):
    """Checks a weights file against what its card says of it.

    Args:
        folder: the folder of the checkpoint.
        record: `Card.weights`.

    Returns:
        `Path` of the file.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: it is shorter, longer or other than the card says.
    """
    path = Path(folder) / record["file"]
    expected = f"expected {record['bytes']} bytes with sha256 {record['sha256']}"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, {expected}")
    size = path.stat().st_size
    if size != record["bytes"]:
        raise ValueError(f"{path}: received {size} bytes, {expected}")
    received = file_sha256(path)
    if received != record["sha256"]:
        raise ValueError(f"{path}: received {size} bytes with sha256 {received}, {expected}")
    return path


def file_sha256(path):
    """SHA-256 of a file in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checkpoints():
    """Folder of every checkpoint at hand by name: packaged ones, then the newest version in the cache."""
    newest = {}
    for path in sorted(_cache.folder("checkpoints").glob("*/card.json")):
        # A leading dot marks what another process is still unpacking.
        if not path.parent.name.startswith("."):
            found = Card.read(path)
            if found.name not in newest or found.version > newest[found.name][0]:
                newest[found.name] = (found.version, path.parent)
    folders = {name: folder for name, (_, folder) in newest.items()}
    packaged = sorted(WEIGHTS.glob("[a-z0-9]*/card.json"))
    return folders | {path.parent.name: path.parent for path in packaged}


def _from_archive(path):
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, expected the release archive of a checkpoint")
    folder = _cache.folder("checkpoints") / file_sha256(path)[:32]
    if not folder.is_dir():
        _unpack(path, folder, str(path))
    return folder


def _from_url(url):
    import requests

    folder = _cache.folder("checkpoints") / hashlib.sha256(url.encode()).hexdigest()[:32]
    if folder.is_dir():
        return folder
    progress = importlib.util.find_spec("tqdm") is not None
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".download-") as temporary:
        try:
            archive = pooch.retrieve(
                url, None, "archive.zip", temporary, downloader=pooch.HTTPDownloader(progressbar=progress)
            )
        except (requests.exceptions.RequestException, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ConnectionError(
                f"{url}: the download failed or was cut off ({reason}), expected the release archive of a checkpoint"
            ) from None
        _unpack(Path(archive), folder, url)
    return folder


def _unpack(archive, folder, source):
    """Unpacks a release archive into a folder of the cache, after checking all of it."""
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpack-") as temporary:
            with zipfile.ZipFile(archive) as file:
                for member in file.infolist():
                    _refuse_outside(member, source)
                file.extractall(temporary)
            cards = [*Path(temporary).glob("card.json"), *Path(temporary).glob("*/card.json")]
            if len(cards) != 1:
                raise ValueError(f"{source}: received {len(cards)} card.json in the archive, expected one")
            try:
                check_weights(cards[0].parent, Card.read(cards[0]).weights)
            except (ValueError, FileNotFoundError) as error:
                inside = str(error).replace(f"{temporary}{os.sep}", "")
                raise ValueError(f"{source}: {inside}") from None
            try:
                os.replace(cards[0].parent, folder)
            except OSError:
                # Another process unpacked the same archive in the meantime.
                if not folder.is_dir():
                    raise
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{source}: received a damaged file ({error}), expected a whole zip archive") from None


def _refuse_outside(member, source):
    path = PurePosixPath(member.filename.replace("\\", "/"))
    outside = path.is_absolute() or ".." in path.parts or ":" in member.filename
    if outside or stat.S_ISLNK(member.external_attr >> 16):
        raise ValueError(
            f"{source}: received the member {member.filename!r}, expected only files inside the archive's folder"
        )
