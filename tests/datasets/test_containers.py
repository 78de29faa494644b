"""Images in containers behind the table: reading, the cache, twins. The readers have tests of their own."""

import os
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context

import h5py
import numpy as np
import pytest
from medzoo.datasets import (
    cached_images,
    find_twins,
    image_paths,
    image_table,
    read_image,
    readable,
    resize_image,
)
from medzoo.datasets import containers as module
from medzoo.datasets.containers import count_hdf5, count_stl, member_names
from medzoo.datasets.images import read_bytes
from PIL import Image


def write(file, images, **settings):
    with h5py.File(file, "w") as store:
        store.create_dataset("x", data=images, **settings)
    return file


@pytest.fixture
def pixels():
    return np.random.default_rng(3).integers(0, 256, (30, 10, 12, 3), dtype="uint8")


@pytest.fixture
def container(tmp_path, pixels):
    return write(tmp_path / "some.h5", pixels, chunks=(7, 10, 12, 3), compression="gzip")


def table_of(file, count):
    rows = [{"image": name, "label": "ab"[row % 2]} for row, name in enumerate(member_names(file, count))]
    return image_table(rows, "some", file.parent, "ab", "none")


def refused(path, match, kind=ValueError):
    with pytest.raises(kind, match=match) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    assert str(path.parent) in str(caught.value)


def test_names_in_order_of_the_images():
    names = member_names("folder/some.h5", 1_000_001)
    assert names[:2] == ["some.h5#0000000", "some.h5#0000001"]
    assert {len(name) for name in names} == {len("some.h5#1000000")}


@pytest.mark.parametrize("settings", [{}, {"chunks": (7, 10, 12, 3)}, {"chunks": (1, 5, 12, 1), "compression": "lzf"}])
def test_every_layout_of_hdf5_gives_the_stored_pixels(tmp_path, pixels, settings):
    file = write(tmp_path / "some.h5", pixels, **settings)
    for name, expected in zip(member_names(file, 30), pixels, strict=True):
        image = read_image(tmp_path / name)
        assert image.dtype == "float32"
        np.testing.assert_array_equal(image, expected)


def test_grey(tmp_path, pixels):
    write(tmp_path / "grey.h5", pixels[..., :1])
    np.testing.assert_array_equal(read_image(tmp_path / "grey.h5#000004"), pixels[4, ..., :1])


def test_many_threads_and_more_files_than_stay_open(tmp_path, pixels):
    count = module.OPEN_FILES + 2
    for number in range(count):
        write(tmp_path / f"{number}.h5", pixels + np.uint8(number), chunks=(4, 10, 12, 3))
    wanted = np.random.default_rng(1).integers(0, (count, 30), (600, 2))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda one: read_image(tmp_path / f"{one[0]}.h5#{one[1]:06d}"), wanted))
    for (number, index), image in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(image, pixels[index] + np.uint8(number))
    assert len(module._opened) <= module.OPEN_FILES


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_opens_the_file_itself(container, pixels):
    read_image(container.with_name("some.h5#000000"))
    with get_context("fork").Pool(2) as pool:
        found = pool.map(read_image, [container.with_name(name) for name in member_names(container, 30)])
    np.testing.assert_array_equal(found, pixels)


def test_a_container_that_changes(container, pixels):
    name = container.with_name("some.h5#000003")
    np.testing.assert_array_equal(read_image(name), pixels[3])
    container.unlink()
    write(container, 255 - pixels)
    np.testing.assert_array_equal(read_image(name), 255 - pixels[3])


def test_the_cache_takes_them_like_files(container, pixels, tmp_path):
    table = table_of(container, 30)
    images = cached_images(table, (5, 6), folder=tmp_path / "cache")
    expected = np.rint([resize_image(image, (5, 6)) for image in pixels])
    np.testing.assert_array_equal(images.read(range(30)), expected)
    assert len(set(images.sha256)) == 30
    before = images.file.stat().st_mtime_ns
    assert cached_images(table, (5, 6), folder=tmp_path / "cache").file.stat().st_mtime_ns == before
    container.unlink()
    write(container, 255 - pixels)
    again = cached_images(table, (5, 6), folder=tmp_path / "cache")
    np.testing.assert_array_equal(again.read([2])[0], np.rint(resize_image(255 - pixels[2], (5, 6))))


def test_an_image_that_is_whole_beside_chunks_that_are_not(container, tmp_path):
    with h5py.File(container, "r+") as store:
        offset = store["x"].id.get_chunk_info_by_coord((7, 0, 0, 0)).byte_offset
    with container.open("r+b") as stream:
        stream.seek(offset)
        stream.write(b"not what gzip has written")
    refused(container.with_name("some.h5#000007"), r"some.h5: cannot be read \(.*\), expected a whole HDF5 file")
    with pytest.warns(UserWarning, match="7 of 30 images of 'some' cannot be read and are left out"):
        kept = readable(table_of(container, 30), (5, 6), folder=tmp_path / "cache")
    assert len(kept) == 23
    assert len(cached_images(kept, (5, 6), folder=tmp_path / "cache")) == 23


def test_twins_in_containers(busi_folder, tmp_path):
    images = [np.asarray(Image.open(busi_folder / "benign" / f"benign ({number}).png")) for number in (1, 2, 13)]
    images = [np.pad(image, [(0, 160 - side) for side in image.shape]) for image in images]  # twins are smaller
    file = write(tmp_path / "some.h5", np.stack([*images, images[1]])[..., None])
    twins = find_twins(table_of(file, 4))
    found = {tuple(pair) for pair in twins.pairs[["image", "twin"]].to_numpy()}
    assert found == {("some.h5#000000", "some.h5#000002"), ("some.h5#000001", "some.h5#000003")}


def test_a_file_whose_name_merely_looks_alike(tmp_path, pixels):
    (tmp_path / "a.h5#b").write_bytes(b"content")
    assert read_bytes(tmp_path / "a.h5#b") == b"content"


def test_damaged_and_other_hdf5_files(tmp_path, pixels):
    refused(tmp_path / "no.h5#000000", "no.h5: no such file", FileNotFoundError)
    (tmp_path / "text.h5").write_text("no HDF5")
    refused(tmp_path / "text.h5#000000", r"text.h5: cannot be read \(.*\), expected a whole HDF5 file")
    short = write(tmp_path / "short.h5", pixels)
    short.write_bytes(short.read_bytes()[:-100])
    refused(tmp_path / "short.h5#000000", r"short.h5: cannot be read \(.*truncated.*\), expected a whole HDF5 file")
    with h5py.File(tmp_path / "other.h5", "w") as store:
        store["images"], store["y"] = pixels, np.zeros(30)
    refused(tmp_path / "other.h5#000000", "other.h5: no dataset 'x' among images, y")
    for number, wrong in enumerate((pixels[0], pixels.astype("float32"), pixels[..., :2], pixels[:0])):
        write(tmp_path / f"wrong{number}.h5", wrong)
        refused(tmp_path / f"wrong{number}.h5#000000", "expected uint8 of shape .images, height, width, 1 or 3.")
    write(tmp_path / "few.h5", pixels)
    refused(tmp_path / "few.h5#000030", "few.h5#30: the file holds 30 images, expected a number from 0 to 29")
    with pytest.raises(ValueError, match="no dataset 'x'"):
        count_hdf5(tmp_path / "other.h5")


def test_pixels_of_stl10(tmp_path):
    """Each channel is stored column by column: the second byte is the pixel below the first."""
    stored = np.zeros((2, 3, 96 * 96), "uint8")
    stored[1, 0, 1] = 11  # red, row 1, column 0
    stored[1, 1, 96] = 22  # green, row 0, column 1
    stored[1, 2, 5 * 96 + 7] = 33  # blue, row 7, column 5
    (tmp_path / "train_X.bin").write_bytes(stored.tobytes())
    assert count_stl(tmp_path / "train_X.bin") == 2
    image = read_image(tmp_path / "train_X.bin#000001")
    assert image.shape == (96, 96, 3)
    assert (image[1, 0, 0], image[0, 1, 1], image[7, 5, 2], image.sum()) == (11, 22, 33, 66)
    assert not read_image(tmp_path / "train_X.bin#000000").any()
    refused(tmp_path / "train_X.bin#000002", "the file holds 2 images")
    refused(tmp_path / "test_X.bin#000000", "no such file", FileNotFoundError)


def test_paths_of_a_table(container):
    assert image_paths(table_of(container, 30))[29] == container.parent / "some.h5#000029"
