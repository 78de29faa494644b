"""Profiles and what a user changes in them."""

from dataclasses import dataclass

import pytest
from medzoo.training import check_settings, parse_settings


@dataclass(frozen=True)
class Settings:
    """One field of each kind."""

    epochs: int = 3
    rate: float = 0.1
    backbone: str = "resnet18"
    size: tuple[int, ...] = (64, 48)
    rates: tuple[float, ...] = (0.1, 0.2)

    def __post_init__(self):
        check_settings(self, {"epochs": 1, "size": 32}, ("rate", "rates"))


PROFILES = {"paper": Settings(), "quick": Settings(epochs=1)}


def test_each_kind_stays_what_it_is():
    changed = parse_settings(PROFILES, "quick", ["epochs=7", "rate=1", "backbone=dense", "size=40,50", "rates=1,0.5"])
    assert changed == Settings(7, 1.0, "dense", (40, 50), (1.0, 0.5))
    assert [type(value) for value in (changed.rate, changed.size[0], changed.rates[0])] == [float, int, float]
    assert parse_settings(PROFILES, "quick") == Settings(epochs=1)


@pytest.mark.parametrize(
    ("profile", "override", "message"),
    [
        ("quik", "epochs=2", "unknown profile 'quik': did you mean 'quick'"),
        ("quick", "epoch=2", "unknown option 'epoch': did you mean 'epochs'"),
        ("quick", "epochs", "--set epochs: expected key=value"),
        ("quick", "epochs=many", "--set epochs=many: expected int, as in epochs=1"),
        ("quick", "size=40.5,50", "--set size=40.5,50: expected numbers, separated by commas, as in size=64,48"),
        ("quick", "epochs=0", "epochs: received 0, expected at least 1"),
        ("quick", "size=40,31", "size: received 31, expected at least 32"),
        ("quick", "rate=nan", "rate: received nan, expected more than 0 and at most 1"),
        ("quick", "rates=0.5,1.5", "rates: received 1.5, expected more than 0 and at most 1"),
    ],
)
def test_refusals(profile, override, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - compared below
        parse_settings(PROFILES, profile, [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)
