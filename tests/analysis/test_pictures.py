import numpy as np
import pytest
from medzoo.analysis import prediction_figure


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


def test_lists_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="received 0, 0 and 0"):
        prediction_figure([], [], [], "", "")
    with pytest.raises(ValueError, match="received 1, 1 and 2"):
        prediction_figure([np.zeros((2, 2, 1))], [np.zeros((2, 2, 3))], ["a", "b"], "", "")
