import http.server
import os
import shutil
import subprocess
import sys
import threading
import zipfile

import pytest
from medzoo import zoo
from medzoo.zoo import Card, store


@pytest.fixture
def archive(checkpoint, tmp_path):
    """Release archive of the tiny checkpoint, its files in one folder."""
    path = tmp_path / "tiny-busi-1.zip"
    with zipfile.ZipFile(path, "w") as file:
        for member in checkpoint.iterdir():
            file.write(member, f"tiny-busi/{member.name}")
    return path


@pytest.fixture
def packaged(checkpoint, monkeypatch):
    """The folder of the tiny checkpoint as the packaged `weights/`."""
    monkeypatch.setattr(store, "WEIGHTS", checkpoint.parent)
    return checkpoint


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server(archive):
    """A web server: `/whole.zip`, `/cut.zip` (announces all, sends half), `/less.zip` (announces and sends half),
    `/silent.zip` (announces nothing, sends half), and nothing else. `server.asked` lists what was asked for."""
    content = archive.read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            server.asked.append(self.path)
            if self.path not in ("/whole.zip", "/cut.zip", "/less.zip", "/silent.zip"):
                self.send_error(404)
                return
            body = content if self.path == "/whole.zip" else content[: len(content) // 2]
            self.send_response(200)
            if self.path != "/silent.zip":
                self.send_header("Content-Length", len(body) if self.path == "/less.zip" else len(content))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_looking_does_not_import_keras(checkpoint):
    code = (
        "import sys\n"
        "import medzoo.zoo\n"
        "medzoo.zoo.list_models()\n"
        f"assert medzoo.zoo.card({str(checkpoint)!r}).name == 'tiny-busi'\n"
        "print([name for name in ('keras', 'tensorflow', 'jax', 'matplotlib', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_models_are_listed_by_pattern_and_modality(packaged, cache):
    other = packaged.parent / "other-model"
    shutil.copytree(packaged, other)
    card = Card.read(packaged / "card.json")
    fields = {**vars(card), "name": "other-model", "modality": "dermoscopy"}
    Card.from_dict(fields).write(other / "card.json")
    # What another process is still writing.
    shutil.copytree(packaged, packaged.parent / ".half-written")
    assert zoo.list_models() == ["other-model", "tiny-busi"]
    assert zoo.list_models("tiny*") == ["tiny-busi"]
    assert zoo.list_models(modality="dermoscopy") == ["other-model"]
    assert zoo.list_models("tiny*", modality="dermoscopy") == []


def test_a_damaged_cache_does_not_hide_what_is_packaged(packaged, cache):
    (cache / "checkpoints" / "damaged").mkdir(parents=True)
    (cache / "checkpoints" / "damaged" / "card.json").write_text("{")
    assert store.find("tiny-busi") == packaged
    with pytest.raises(ValueError, match=r"damaged.card\.json: Expecting"):
        zoo.list_models()


def test_an_unknown_name_gets_the_nearest_right_one(packaged, cache):
    with pytest.raises(ValueError, match="unknown checkpoint 'tini-busi': did you mean 'tiny-busi'") as error:
        zoo.card("tini-busi")
    assert "\n" not in str(error.value)


def test_a_folder_without_card_is_refused(tmp_path, cache):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty: .*expected card\.json"):
        zoo.card(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        zoo.card(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"none\.zip: no such file"):
        zoo.card(tmp_path / "none.zip")


def test_an_archive_is_unpacked_once_and_then_known_by_name(archive, checkpoint, cache, monkeypatch):
    folder = store.find(archive)
    assert folder.is_relative_to(cache)
    for name in ("card.json", "weights.safetensors"):
        assert (folder / name).read_bytes() == (checkpoint / name).read_bytes()
    monkeypatch.setattr(store, "_unpack", None)
    assert store.find(archive) == folder
    assert store.find("tiny-busi") == folder
    assert zoo.list_models("tiny*") == ["tiny-busi"]


def test_the_newest_cached_version_has_the_name(archive, checkpoint, cache, tmp_path):
    store.find(archive)
    card = Card.read(checkpoint / "card.json")
    Card.from_dict({**vars(card), "version": 12}).write(checkpoint / "card.json")
    newer = tmp_path / "newer.zip"
    with zipfile.ZipFile(newer, "w") as file:
        for member in checkpoint.iterdir():
            file.write(member, member.name)
    store.find(newer)
    assert zoo.card("tiny-busi").version == 12
    assert zoo.card(archive).version == 1


def test_a_url_is_fetched_once(server, cache, checkpoint):
    folder = store.find(f"{server.url}/whole.zip")
    assert (folder / "weights.safetensors").read_bytes() == (checkpoint / "weights.safetensors").read_bytes()
    assert zoo.card(f"{server.url}/whole.zip").name == "tiny-busi"
    assert server.asked == ["/whole.zip"]
    assert [path.name for path in files(cache)] == ["card.json", "weights.safetensors"]


@pytest.mark.parametrize("name", ["cut", "less", "silent", "absent"])
def test_a_cut_off_download_leaves_nothing(server, cache, name):
    url = f"{server.url}/{name}.zip"
    with pytest.raises((ConnectionError, ValueError), match=url) as error:
        zoo.load(url)
    assert "\n" not in str(error.value)
    assert os.listdir(cache / "checkpoints") == []


def test_a_dead_server_is_named(cache):
    with pytest.raises(ConnectionError, match=r"http://127\.0\.0\.1:9/x\.zip: the download failed") as error:
        zoo.load("http://127.0.0.1:9/x.zip")
    assert "\n" not in str(error.value)


def test_a_truncated_archive_is_refused(archive, cache):
    content = archive.read_bytes()
    for size in (0, 100, len(content) // 2, len(content) - 1):
        archive.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"tiny-busi-1\.zip: received a damaged file") as error:
            zoo.load(archive)
        assert "\n" not in str(error.value)
    assert os.listdir(cache / "checkpoints") == []


def test_an_archive_with_altered_weights_is_refused(archive, checkpoint, cache):
    content = bytearray((checkpoint / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    with zipfile.ZipFile(archive, "w") as file:
        file.write(checkpoint / "card.json", "card.json")
        file.writestr("weights.safetensors", bytes(content))
    with pytest.raises(ValueError, match=r"tiny-busi-1\.zip: weights\.safetensors: .* sha256 .*, expected") as error:
        zoo.load(archive)
    assert "\n" not in str(error.value)
    assert os.listdir(cache / "checkpoints") == []


def test_an_archive_without_card_is_refused(archive, cache):
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("weights.safetensors", b"")
    with pytest.raises(ValueError, match=r"received 0 card\.json in the archive, expected one"):
        zoo.load(archive)


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside", "..\\outside", "C:/outside"])
def test_an_archive_that_writes_elsewhere_is_refused(archive, cache, name):
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(name, "x")
    with pytest.raises(ValueError, match=r"tiny-busi-1\.zip: received the member .*outside"):
        zoo.load(archive)
    assert os.listdir(cache / "checkpoints") == []
    assert not list(archive.parent.rglob("outside"))


def test_an_archive_with_a_link_is_refused(archive, cache):
    link = zipfile.ZipInfo("tiny-busi/link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(link, "/etc")
    with pytest.raises(ValueError, match="received the member 'tiny-busi/link'"):
        zoo.load(archive)


PUBLISHED = sorted(path.parent for path in store.WEIGHTS.glob("*/card.json"))


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_published_cards_and_files(folder):
    card = Card.read(folder / "card.json")
    assert card.name == folder.name
    assert store.check_weights(folder, card.weights) == folder / card.weights["file"]
    assert card.weights["bytes"] < 50e6
    assert {path.name for path in folder.iterdir()} == {"card.json", card.weights["file"]}
