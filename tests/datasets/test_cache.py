import errno
import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context

import h5py
import numpy as np
import pydicom
import pytest
from medzoo.datasets import cache, cached_images, image_table, read_folder, readable
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    BreastTomosynthesisImageStorage,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    generate_uid,
)

BUILD = """
import sys
from medzoo.datasets import cache, cached_images, read_folder
images = cached_images(read_folder(sys.argv[1]), (16, 16), 1, sys.argv[2])
print(images.read([0, 5, -1]).sum(), len(images))
"""
STALL = """
import signal, os
from medzoo import _progress
from medzoo.datasets import cache
cache.CHUNK = 4
def killed(what, done, total):
    if done >= 8:
        os.kill(os.getpid(), signal.SIGKILL)
_progress.show = killed
"""


@pytest.fixture
def folder(tmp_path):
    """Two classes of 20 small images, each of one grey level of its own."""
    for offset, label in enumerate("ab"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(20):
            Image.new("L", (20, 24), 10 * offset + number).save(tmp_path / "data" / label / f"{number:02d}.png")
    return tmp_path / "data"


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that were decoded."""
    names, decode = [], cache.decode_image
    monkeypatch.setattr(
        cache, "decode_image", lambda data, path, intensity: names.append(path.name) or decode(data, path)
    )
    return names


def files_in(place):
    return sorted(path.suffix for path in (place / "images").iterdir())


def test_images_hashes_and_order(folder, tmp_path):
    table = read_folder(folder).sample(frac=1, random_state=0)
    images = cached_images(table, (16, 12), channels=3, folder=tmp_path / "cache")
    assert images.shape == (40, 16, 12, 3)
    assert len(images) == 40
    everything = images.read(range(40))
    assert everything.dtype == np.uint8
    level = [10 * (name[0] == "b") + int(name[2:4]) for name in table["image"]]
    assert (everything == np.array(level)[:, None, None, None]).all()
    assert images.read([3, 1, 3])[:, 0, 0, 0].tolist() == [level[3], level[1], level[3]]
    assert images.read([]).shape == (0, 16, 12, 3)
    expected = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in table["image"]]
    assert images.sha256 == expected


def test_pixels_are_pillows_bilinear_with_antialias(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (61, 47, 3), dtype="uint8")
    for label in "ab":
        (tmp_path / "data" / label).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "data" / label / "x.png")
    table = read_folder(tmp_path / "data")
    size = (20, 24)
    expected = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)).astype(int)
    colour = cached_images(table, size, 3, tmp_path).read([0])[0].astype(int)
    assert abs(colour - expected).max() <= 1  # Pillow rounds uint8 between its two passes, float does not
    grey = cached_images(table, size, 1, tmp_path).read([0])[0, ..., 0].astype(int)
    luma = np.asarray(Image.fromarray(pixels).convert("L").resize(size[::-1], Image.Resampling.BILINEAR)).astype(int)
    assert abs(grey - luma).max() <= 1
    assert abs(grey - luma).mean() < 0.5


def test_made_once_and_per_size_and_channels(folder, tmp_path, decoded):
    table = read_folder(folder)
    first = cached_images(table, (8, 8), 1, tmp_path)
    assert len(decoded) == 40
    again = cached_images(table, (8, 8), 1, tmp_path)
    assert len(decoded) == 40
    assert again.file == first.file
    other = {cached_images(table, size, channels, tmp_path).file for size, channels in [((8, 9), 1), ((8, 8), 3)]}
    other.add(cached_images(table[:30], (8, 8), 1, tmp_path).file)
    assert len({first.file, *other}) == 4


def test_a_new_decoder_makes_a_new_cache(folder, tmp_path, decoded, monkeypatch):
    cached_images(read_folder(folder), (8, 8), 1, tmp_path)
    monkeypatch.setattr(cache, "DECODER_VERSION", cache.DECODER_VERSION + 1)
    cached_images(read_folder(folder), (8, 8), 1, tmp_path)
    assert len(decoded) == 80


def test_the_cache_lies_where_the_environment_says(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDZOO_CACHE", str(tmp_path / "named"))
    assert cached_images(read_folder(folder), (8, 8), 1).file.parent == tmp_path / "named" / "images"
    monkeypatch.delenv("MEDZOO_CACHE")
    assert cache.cache_folder().name == "medzoo"


def test_a_changed_source_is_seen_and_only_it_is_decoded(folder, tmp_path, decoded):
    table = read_folder(folder)
    before = cached_images(table, (8, 8), 1, tmp_path)
    Image.new("L", (20, 24), 200).save(folder / "a" / "03.png")
    os.utime(folder / "a" / "03.png", ns=(1, 1))
    decoded.clear()
    after = cached_images(table, (8, 8), 1, tmp_path)
    assert decoded == ["03.png"]
    assert after.read([3]).max() == 200
    assert after.read([2]).max() == 2
    assert after.sha256[3] == hashlib.sha256((folder / "a" / "03.png").read_bytes()).hexdigest()
    assert before.read([3]).max() == 3  # whoever still reads the old file keeps it whole


def test_a_touched_source_is_hashed_once_and_not_decoded(folder, tmp_path, decoded, monkeypatch):
    table = read_folder(folder)
    cached_images(table, (8, 8), 1, tmp_path)
    os.utime(folder / "b" / "07.png", ns=(1, 1))
    decoded.clear()
    assert cached_images(table, (8, 8), 1, tmp_path).read([27]).max() == 17
    assert decoded == []
    monkeypatch.setattr(cache, "read_bytes", lambda path: pytest.fail("read again"))
    cached_images(table, (8, 8), 1, tmp_path)


def test_a_source_that_went_missing_is_an_error(folder, tmp_path):
    table = read_folder(folder)
    cached_images(table, (8, 8), 1, tmp_path)
    (folder / "a" / "04.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"04.png: no such image file"):
        cached_images(table, (8, 8), 1, tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "text", "emptied", "without hashes"])
def test_a_damaged_cache_file_is_made_anew(folder, tmp_path, damage):
    table = read_folder(folder)
    file = cached_images(table, (8, 8), 1, tmp_path).file
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif damage == "without hashes":
        with h5py.File(file, "r+") as store:
            del store["sha256"]
    else:
        file.write_bytes(b"not a cache" if damage == "text" else b"")
    assert cached_images(table, (8, 8), 1, tmp_path).read([39]).max() == 29


def test_an_image_that_cannot_be_decoded_leaves_nothing(folder, tmp_path):
    (folder / "b" / "19.png").write_text("no image")
    with pytest.raises(ValueError, match=r"b/19.png: not an image") as caught:
        cached_images(read_folder(folder), (8, 8), 1, tmp_path)
    assert "\n" not in str(caught.value)
    assert files_in(tmp_path) == [".lock"]


def test_a_kill_leaves_nothing_that_is_believed(folder, tmp_path):
    command = [sys.executable, "-c", STALL + BUILD, str(folder), str(tmp_path)]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    assert files_in(tmp_path) == [".lock", ".partial"]  # it was killed in the middle of writing
    images = cached_images(read_folder(folder), (16, 16), 1, tmp_path)
    assert images.read(range(40))[:, 0, 0, 0].tolist() == [*range(20), *range(10, 30)]
    assert files_in(tmp_path) == [".h5", ".lock"]


def test_two_processes_at_once_do_the_work_once(folder, tmp_path):
    # Each writes a line for every image that it decodes; the first holds on until the second runs, too.
    log = tmp_path / "decoded.log"
    slow = f"""
import time
from medzoo.datasets import cache
decode = cache.decode_image
def noted(data, path, intensity):
    with open({str(log)!r}, "a") as file:
        file.write(path.as_posix() + "\\n")
    time.sleep(0.05)
    return decode(data, path)
cache.decode_image = noted
"""
    command = [sys.executable, "-c", slow + BUILD, str(folder), str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = {process.communicate(timeout=120)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert outputs == {f"{16 * 16 * (0 + 5 + 29)} 40\n"}
    assert len(log.read_text().split()) == 40


def test_a_process_waits_for_one_that_is_killed_and_does_the_work(folder, tmp_path):
    hang = STALL.replace("os.kill(os.getpid(), signal.SIGKILL)", "print('half', flush=True); signal.pause()")
    first = subprocess.Popen(
        [sys.executable, "-c", hang + BUILD, str(folder), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert first.stdout.readline() == "half\n"
    second = subprocess.Popen(
        [sys.executable, "-c", BUILD, str(folder), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(timeout=3)  # the lock is held
    first.kill()
    assert second.communicate(timeout=120)[0].endswith(" 40\n")
    first.communicate()


def test_a_full_disk_is_one_line_and_leaves_nothing(folder, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache.os, "fsync", full)
    with pytest.raises(OSError, match=r"\.h5: the cache cannot be written \(No space left on device\)") as caught:
        cached_images(read_folder(folder), (8, 8), 1, tmp_path)
    assert "\n" not in str(caught.value)
    assert files_in(tmp_path) == [".lock"]


@pytest.mark.parametrize("limit", [0, 1000, 5000, 12000])
def test_a_file_system_that_refuses_to_write_more(folder, tmp_path, limit):
    # A limit on the file size makes the system's own write fail in the middle, as a full disk does.
    limited = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
"""
    process = subprocess.run(
        [sys.executable, "-c", limited + BUILD, str(folder), str(tmp_path)], capture_output=True, text=True
    )
    assert process.returncode == 1
    assert "the cache cannot be written" in process.stderr.strip().splitlines()[-1]
    assert files_in(tmp_path) == [".lock"]


def _sum_of(images):
    return int(images.read(range(40)).sum())


def test_reading_from_threads_forks_and_pickles(folder, tmp_path):
    images = cached_images(read_folder(folder), (8, 8), 1, tmp_path)
    expected = 64 * (sum(range(20)) + sum(range(10, 30)))
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(_sum_of, [images] * 50)) == {expected}
    copy = pickle.loads(pickle.dumps(images))
    assert _sum_of(copy) == expected
    assert len(pickle.dumps(images)) < 1000  # the name, not the pixels
    process = get_context("fork").Process(target=lambda: os._exit(_sum_of(images) != expected))
    process.start()
    process.join(60)
    assert process.exitcode == 0


def test_progress_is_shown(folder, tmp_path, capsys):
    cached_images(read_folder(folder), (8, 8), 1, tmp_path)
    assert capsys.readouterr().err == "\rreading images: 32/40\rreading images: 40/40\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((8, 8), 2), "channels is 2, expected 1 or 3"),
        (((0, 8), 1), r"size is \(0, 8\), expected \(height, width\)"),
        (((8.0, 8), 1), r"size is \(8.0, 8\)"),
    ],
)
def test_arguments_that_do_not_fit(folder, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        cached_images(read_folder(folder), *arguments, tmp_path)


@pytest.mark.parametrize("indices", [3, [0.5], [[1]], [True]])
def test_indices_that_do_not_fit(folder, tmp_path, indices):
    images = cached_images(read_folder(folder), (8, 8), 1, tmp_path)
    with pytest.raises(ValueError, match="expected a list of integers"):
        images.read(indices)


# Images that keep their aspect ratio -----------------------------------------------------------------------------


def table_of(folder, sizes):
    """Images of noise, `0.png` and so on, of these (height, width)."""
    random = np.random.default_rng(0)
    for number, size in enumerate(sizes):
        Image.fromarray(random.integers(1, 256, size, "uint8")).save(folder / f"{number}.png")
    rows = [{"image": f"{number}.png", "label": "a"} for number in range(len(sizes))]
    return image_table(rows, "some", folder, ["a"], "none")


def test_padding_keeps_the_aspect_ratio_and_the_top_left_corner(tmp_path):
    # 20 x 12 into 10 x 9 by 1/2; 12 x 24 by 3/8, 4.5 rows are 4; 5 x 3 grows by 2; a line keeps one pixel.
    table = table_of(tmp_path, [(20, 12), (12, 24), (5, 3), (400, 2)])
    images = cached_images(table, (10, 9), 1, tmp_path / "cache", fit="pad")
    assert images.shape == (4, 10, 9, 1)
    assert images.windows.tolist() == [[0, 0, 10, 6], [0, 0, 4, 9], [0, 0, 10, 6], [0, 0, 10, 1]]
    for number, (_, _, height, width) in enumerate(images.windows):
        with Image.open(tmp_path / f"{number}.png") as image:
            expected = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)).astype(int)
        framed = images.read([number])[0, ..., 0].astype(int)
        assert abs(framed[:height, :width] - expected).max() <= 1
        assert framed[:height, :width].min() > 0
        assert framed.sum() == framed[:height, :width].sum()


def test_both_fits_lie_beside_each_other_and_know_their_windows(tmp_path, decoded):
    table = table_of(tmp_path, [(20, 12), (10, 9)])
    stretched = cached_images(table, (10, 9), 3, tmp_path / "cache")
    padded = cached_images(table, (10, 9), 3, tmp_path / "cache", fit="pad")
    assert stretched.windows.tolist() == [[0, 0, 10, 9]] * 2
    assert padded.file != stretched.file
    assert len(decoded) == 4
    again = pickle.loads(pickle.dumps(cached_images(table, (10, 9), 3, tmp_path / "cache", fit="pad")))
    assert again.windows.tolist() == [[0, 0, 10, 6], [0, 0, 10, 9]]
    assert len(decoded) == 4
    # Images of the right aspect ratio are the same in both.
    assert np.array_equal(padded.read([1]), stretched.read([1]))


def test_caches_of_before_there_were_windows_are_still_found(folder, tmp_path, decoded):
    table = read_folder(folder)
    key = json.dumps([str(folder), list(table["image"]), 8, 9, 1, 1])
    file = cached_images(table, (8, 9), 1, tmp_path).file
    assert file.name == f"data-8x9x1-{hashlib.sha256(key.encode()).hexdigest()[:16]}.h5"
    with h5py.File(file, "r+") as store:
        del store["windows"]
    assert cached_images(table, (8, 9), 1, tmp_path).windows.tolist() == [[0, 0, 8, 9]] * 40
    assert len(decoded) == 40


def test_an_unknown_fit_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="unknown fit 'padd': did you mean 'pad'"):
        cached_images(read_folder(folder), (8, 8), 1, tmp_path, fit="padd")


# Files that cannot be decoded ------------------------------------------------------------------------------------


def with_warning(*arguments, **options):
    with pytest.warns(UserWarning, match="cannot be read and are left out") as caught:
        table = readable(*arguments, **options)
    assert len(caught) == 1
    return table, str(caught[0].message).split("\n  ")


def spoil(folder):
    (folder / "a" / "03.png").write_text("no image")
    (folder / "a" / "17.png").unlink()
    (folder / "b" / "19.png").write_bytes((folder / "b" / "19.png").read_bytes()[:-20])
    return ["a/03.png", "a/17.png", "b/19.png"]


@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_a_run_goes_on_past_bad_files_and_lists_them_at_the_end(folder, tmp_path, decoded, fit):
    whole = read_folder(folder)
    bad = spoil(folder)
    table, lines = with_warning(whole, (8, 9), 1, tmp_path, fit)
    assert lines[0] == "3 of 40 images of 'data' cannot be read and are left out:"
    assert [line.split(": ")[0] for line in lines[1:]] == [str(folder / name) for name in bad]
    assert ["not an image" in lines[1], "no such image file" in lines[2], "truncated" in lines[3]] == [True] * 3
    kept = [name for name in whole["image"] if name not in bad]
    assert list(table["image"]) == kept
    assert list(table.index) == list(range(37))
    assert table.attrs == whole.attrs
    decoded.clear()
    images = cached_images(table, (8, 9), 1, tmp_path, fit=fit)
    assert decoded == []
    assert len(images) == 37
    level = [10 * (name[0] == "b") + int(name[2:4]) for name in kept]
    assert images.read(range(37))[:, 0, 0, 0].tolist() == level
    assert images.windows.tolist() == [[0, 0, 8, 9 if fit == "stretch" else 7]] * 37
    assert images.sha256 == [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in kept]


def write_dicom(path, level, modality="MG"):
    """A DICOM file of four values around `level`, which are those of a frame of 2 x 2."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    dataset.Rows = dataset.Columns = 2
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.Modality = 1, "MONOCHROME2", modality
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.PixelData = bytes([level, level + 1, level + 2, level + 3])
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)


def dicom_table(folder):
    """Twelve DICOM files, six of them bad, each in a way of its own; and the beginning of each one's reason."""
    for number in range(12):
        write_dicom(folder / f"{number:02d}.dcm", 10 * number, "CT" if number == 1 else "MG")
    bad = {1: "a DICOM file of modality CT, expected MG"}

    def change(number, reason, **elements):
        path = folder / f"{number:02d}.dcm"
        dataset = pydicom.dcmread(path)
        for name, value in elements.items():
            setattr(dataset, name, value)
        if elements.get("PixelData", b"") is None:
            del dataset.PixelData
        pydicom.dcmwrite(path, dataset, implicit_vr=False, little_endian=True)
        bad[number] = reason

    change(2, "a DICOM file of modality MG without pixel data", PixelData=None)
    change(4, "a DICOM file of zero range, all its pixels have the value 5", PixelData=bytes([5] * 4))
    change(7, "a tomosynthesis of 30 frames", SOPClassUID=BreastTomosynthesisImageStorage, NumberOfFrames=30)
    (folder / "08.dcm").write_bytes((folder / "08.dcm").read_bytes()[:-2])
    bad[8] = "cannot be decoded"
    syntax = folder / "10.dcm"
    syntax.write_bytes(syntax.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.7\0"))
    bad[10] = "its transfer syntax is 1.2.840.10008.1.2.7, expected uncompressed"
    rows = [{"image": f"{number:02d}.dcm", "label": "a"} for number in range(12)]
    return image_table(rows, "mammograms", folder, ["a"], "none"), bad


def test_dicom_files_are_each_left_out_with_their_reason(tmp_path, decoded):
    whole, bad = dicom_table(tmp_path)
    for _ in range(2):
        table, lines = with_warning(whole, (2, 2), 1, tmp_path / "cache", modality="MG")
        assert lines[0] == "6 of 12 images of 'mammograms' cannot be read and are left out:"
        for line, (number, reason) in zip(lines[1:], sorted(bad.items()), strict=True):
            assert line.startswith(f"{tmp_path / f'{number:02d}.dcm'}: {reason}")
        assert list(table["image"]) == [f"{number:02d}.dcm" for number in (0, 3, 5, 6, 9, 11)]
        images = cached_images(table, (2, 2), 1, tmp_path / "cache")
        assert images.read(range(6))[:, 0, 0, 0].tolist() == [0, 30, 50, 60, 90, 110]
    assert len(decoded) == 11
    # Where any modality will do, the CT is an image like others.
    table, lines = with_warning(whole, (2, 2), 1, tmp_path / "cache")
    assert len(lines) == 6
    assert cached_images(table, (2, 2), 1, tmp_path / "cache").read([1])[0, 0, 0] == 10


def test_the_cache_of_each_dicom_policy(tmp_path):
    for number in range(2):
        write_dicom(tmp_path / f"{number}.dcm", 100)
    rows = [{"image": f"{number}.dcm", "label": "a"} for number in range(2)]
    table = image_table(rows, "some", tmp_path, ["a"], "none")
    expected = {"voi": [100, 101, 102, 103], "full": [0, 85, 170, 255], "window": [100, 101, 102, 103]}
    for intensity, values in expected.items():
        images = cached_images(table, (2, 2), 1, tmp_path / "cache", intensity=intensity)
        assert images.read([1]).ravel().tolist() == values
        assert readable(table, (2, 2), 1, tmp_path / "cache", intensity=intensity).equals(table)
    assert len(list((tmp_path / "cache" / "images").glob("*.h5"))) == 3
    with pytest.raises(ValueError, match="unknown intensity 'windw': did you mean 'window'"):
        cached_images(table, (2, 2), 1, tmp_path, intensity="windw")


def test_a_new_decoder_of_dicom_makes_a_new_cache_of_dicom_only(folder, tmp_path, monkeypatch):
    write_dicom(tmp_path / "x.dcm", 100)
    dicom = image_table([{"image": "x.dcm", "label": "a"}], "some", tmp_path, ["a"], "none")
    tables = [read_folder(folder), dicom]
    before = [cached_images(table, (2, 2), 1, tmp_path).file for table in tables]
    monkeypatch.setattr(cache, "DICOM_VERSION", cache.DICOM_VERSION + 1)
    after = [cached_images(table, (2, 2), 1, tmp_path).file for table in tables]
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_bad_files_are_remembered_until_they_change(folder, tmp_path, decoded):
    whole = read_folder(folder)
    spoil(folder)
    first, reasons = with_warning(whole, (8, 8), 1, tmp_path)
    decoded.clear()
    again, same = with_warning(whole, (8, 8), 1, tmp_path)
    assert (decoded, same, list(again["image"])) == ([], reasons, list(first["image"]))
    # One is repaired, another breaks: only these are decoded.
    Image.new("L", (20, 24), 200).save(folder / "a" / "03.png")
    (folder / "b" / "00.png").write_text("no image")
    third, lines = with_warning(whole, (8, 8), 1, tmp_path)
    assert sorted(decoded) == ["00.png", "03.png"]
    assert [line.split(": ")[0][-8:] for line in lines[1:]] == ["a/17.png", "b/00.png", "b/19.png"]
    images = cached_images(third, (8, 8), 1, tmp_path)
    assert images.read([3, 4, 18, -1])[:, 0, 0, 0].tolist() == [200, 4, 19, 28]


def test_pixels_are_moved_up_whatever_the_size_of_a_block(folder, tmp_path, monkeypatch):
    whole = read_folder(folder)
    spoil(folder)
    monkeypatch.setattr(cache, "BLOCK", 100)
    table, _ = with_warning(whole, (7, 9), 3, tmp_path)
    expected = cached_images(table, (7, 9), 3, tmp_path / "other")
    images = cached_images(table, (7, 9), 3, tmp_path)
    assert np.array_equal(images.read(range(37)), expected.read(range(37)))
    assert images.file.read_bytes() == expected.file.read_bytes()


def test_where_all_is_well_nothing_is_said_and_all_is_ready(folder, tmp_path, decoded, recwarn):
    whole = read_folder(folder)
    assert readable(whole, (8, 8), 1, tmp_path).equals(whole)
    cached_images(whole, (8, 8), 1, tmp_path)
    assert len(decoded) == 40
    assert not recwarn


def test_at_most_twenty_are_listed(folder, tmp_path):
    whole = read_folder(folder)
    for name in whole["image"][:25]:
        (folder / name).write_text("no image")
    table, lines = with_warning(whole, (8, 8), 1, tmp_path)
    assert len(table) == 15
    assert lines[0].startswith("25 of 40")
    assert len(lines) == 22
    assert lines[-1] == "and 5 more"


def test_a_table_without_a_readable_image_is_an_error_each_time(folder, tmp_path):
    whole = read_folder(folder)
    for name in whole["image"]:
        (folder / name).write_text("no image")
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"none of the 40 images of 'data' can be read, the first: .*a/00.png: not"
        ):
            readable(whole, (8, 8), 1, tmp_path)
    assert files_in(tmp_path) == [".lock"]
