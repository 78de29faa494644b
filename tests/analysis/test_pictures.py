import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from medzoo.analysis import class_overlays, patch_figure, patch_heatmap_figure, prediction_figure
from medzoo.datasets import Region, image_table, sample_patches


def draw(count, channels=1):
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (10 + i, 14, channels)).astype("float32") for i in range(count)]
    overlays = [random.integers(0, 256, (10 + i, 14, 3), "uint8") for i in range(count)]
    titles = [f"image {i}" for i in range(count)]
    return images, overlays, prediction_figure(images, overlays, titles, "Heading of it", "A note below")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 3, 7])
def test_each_image_stands_left_of_its_heatmap(count, channels):
    images, overlays, figure = draw(count, channels)
    shown = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert len(shown) == 2 * count
    for index in range(count):
        np.testing.assert_array_equal(shown[2 * index], np.broadcast_to(images[index], overlays[index].shape))
        np.testing.assert_array_equal(shown[2 * index + 1], overlays[index])
    texts = [axes.get_title(loc="left") for axes in figure.axes if axes.images]
    assert texts[::2] == [f"image {i}" for i in range(count)]


def test_heading_and_note_are_on_the_picture(tmp_path):
    _, _, figure = draw(2)
    assert figure.get_suptitle() == "Heading of it"
    assert figure.get_supxlabel() == "A note below"
    figure.savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_what_is_written_stays_on_a_picture_of_one_tall_image(tmp_path):
    image = np.zeros((90, 50, 1), "float32")
    heading, note = "Wide words, women, MAMMOGRAMS. " * 8, "A longer note of common words below it. " * 16
    figure = prediction_figure([image], [image.repeat(3, -1).astype("uint8")], ["one"], heading, note)
    figure.savefig(tmp_path / "picture.png")  # lays it out
    page = figure.bbox
    for text in (figure._suptitle, figure._supxlabel):
        box = text.get_window_extent()
        assert page.x0 <= box.x0 < box.x1 <= page.x1
        assert page.y0 <= box.y0 < box.y1 <= page.y1
    shown = figure.axes[0].get_window_extent()
    assert shown.height / shown.width == pytest.approx(90 / 50)
    assert figure._supxlabel.get_window_extent().y1 < shown.y0
    assert shown.y1 < figure._suptitle.get_window_extent().y0


def test_lists_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="received 0, 0 and 0"):
        prediction_figure([], [], [], "", "")
    with pytest.raises(ValueError, match="received 1, 1 and 2"):
        prediction_figure([np.zeros((2, 2, 1))], [np.zeros((2, 2, 3))], ["a", "b"], "", "")


def sampled(count=6):
    """Frames of 60 by 50 pixels with a square lesion of 10 in each, and their patches."""
    labels = ["malignant mass", "benign calcification", "benign mass"]
    square = ((0.2, 0.25), (0.4, 0.25), (0.4, 0.25 + 10 / 60), (0.2, 0.25 + 10 / 60))
    rows = [
        {"image": f"{number}.png", "label": "x", "regions": [Region(labels[number // 2 % 3], square)]}
        for number in range(count)
    ]
    table = image_table(rows, "drawn", "/nowhere", ["x"], "none")
    images = np.zeros((count, 60, 50, 1), "uint8")
    images[:, 5:55, :40] = 100 + np.arange(count, dtype="uint8")[:, None, None, None]
    return table, images, sample_patches(table, images, "S10", 16)


def squares(axes):
    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]


def test_patches_stand_where_they_were_sampled_in_the_colours_of_the_legend():
    table, images, patches = sampled()
    figure = patch_figure(table, images, patches, 16, rows=[4, 1])
    assert [axes.get_title() for axes in figure.axes] == ["4.png", "1.png"]
    legend = figure.legends[0]
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["region", "background", "malignant mass", "benign mass"]
    colours = dict(zip(names, [to_hex(line.get_color()) for line in legend.get_lines()], strict=True))
    assert len(set(colours.values())) == 4
    for axes, row in zip(figure.axes, [4, 1], strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), images[row, ..., 0])
        chosen = patches[patches["row"] == row]
        expected = [
            (left - 0.5, top - 0.5, 16, 16, colours[label])
            for left, top, label in zip(chosen["left"], chosen["top"], chosen["label"], strict=True)
        ]
        assert [(*square.get_bbox().bounds, to_hex(square.get_edgecolor())) for square in squares(axes)] == expected
        outline = np.concatenate([path.vertices for path in axes.collections[0].get_paths()])
        # Pixels 10 to 19 across and 15 to 24 down; the outline may be half a pixel or a whole one beside their edge.
        assert outline.min(axis=0) == pytest.approx([9.5, 14.5], abs=1)
        assert outline.max(axis=0) == pytest.approx([19.5, 24.5], abs=1)


def test_by_default_the_first_mammogram_of_each_class_is_drawn(tmp_path):
    figure = patch_figure(*sampled(), 16)
    assert [axes.get_title() for axes in figure.axes] == ["0.png", "4.png", "2.png"]  # in the order of the classes
    figure.savefig(tmp_path / "patches.png")
    assert (tmp_path / "patches.png").stat().st_size > 1000


def test_padded_images_have_their_outlines_in_their_window():
    table, images, patches = sampled(1)

    class Framed:
        shape = (1, 120, 100, 1)
        windows = np.array([[0, 0, 60, 50]])

        def __getitem__(self, index):
            return np.pad(images[index], ((0, 60), (0, 50), (0, 0)))

    axes = patch_figure(table, Framed(), patches, 16).axes[0]
    outline = np.concatenate([path.vertices for path in axes.collections[0].get_paths()])
    assert outline.max(axis=0) == pytest.approx([19.5, 24.5], abs=1)
    assert axes.images[0].get_array().shape == (120, 100)


def test_patches_that_are_not_there_are_refused():
    table, images, patches = sampled()
    with pytest.raises(ValueError, match="patches: received a table without rows"):
        patch_figure(table, images, patches.iloc[:0], 16)
    with pytest.raises(ValueError, match="rows: received 6, expected one of the mammograms with patches"):
        patch_figure(table, images, patches, 16, rows=[0, 6])


def test_heatmap_of_each_class_beside_the_image(tmp_path):
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (96, 64, 1)).astype("float32")
    heatmap = random.dirichlet(np.ones(3), (2, 1))
    figure = patch_heatmap_figure(image, heatmap, ("background", "mass", "calcification"), "name of it")
    assert figure.get_suptitle() == "name of it"
    shown = [axes.images[0].get_array() for axes in figure.axes]
    np.testing.assert_array_equal(shown[0], np.broadcast_to(image, (96, 64, 3)))
    for received, expected in zip(shown[1:], class_overlays(image, heatmap), strict=True):
        np.testing.assert_array_equal(received, expected)
    titles = [axes.get_title() for axes in figure.axes]
    largest = heatmap[..., 1:].max(axis=(0, 1))
    assert titles == ["", f"mass, up to {largest[0]:.2f}", f"calcification, up to {largest[1]:.2f}"]
    figure.savefig(tmp_path / "picture.png")
    with pytest.raises(ValueError, match="classes: received 2 names for a heatmap of 3 classes"):
        patch_heatmap_figure(image, heatmap, ("background", "mass"), "")
