"""The settings of a recipe: profiles of plain values, and what a user changes in them."""

from dataclasses import fields, replace

from .._nearest import unknown


def parse_settings(profiles, profile, overrides=()):
    """The settings of a profile with `key=value` strings applied.

    Args:
        profiles: mapping of name to a frozen dataclass whose fields are numbers, text, or tuples of one of them; a
            tuple is written with commas.
        profile: name of one of them.
        overrides: `key=value` strings, as from `--set`; each value becomes what it is in the profile.

    Returns:
        dataclass of the profile's type.

    Raises:
        ValueError: for an unknown profile or key (with the nearest right name), a value of another kind, or one that
            the dataclass refuses.

    Example:

    ```python
    parse_settings(drs.PROFILES, "quick", ["epochs=7", "learning_rates=0.1,0.02"])
    ```
    """
    if profile not in profiles:
        raise ValueError(unknown("profile", profile, profiles))
    chosen = profiles[profile]
    known, changed = {field.name for field in fields(chosen)}, {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or key not in known:
            raise ValueError(unknown("option", key, known) if equals else f"--set {override}: expected key=value")
        default = getattr(chosen, key)
        several = isinstance(default, tuple)
        kind = type(default[0] if several else default)
        try:
            value = tuple(kind(part) for part in text.split(",")) if several else kind(text)
        except ValueError:
            wanted = "numbers, separated by commas" if several else kind.__name__
            example = ",".join(map(str, default)) if several else default
            raise ValueError(f"--set {key}={text}: expected {wanted}, as in {key}={example}") from None
        changed[key] = value
    return replace(chosen, **changed)  # at once, as some fit each other only together


def check_settings(settings, least, shares=()):
    """Refuses numbers out of range.

    Args:
        settings: dataclass; a field may be a number or a tuple of them.
        least: mapping of field to the smallest number allowed.
        shares: names of fields with numbers above 0 and at most 1.

    Raises:
        ValueError: naming the field and what was received.
    """
    for name, limit in least.items():
        for value in _values(settings, name):
            if not value >= limit:
                raise ValueError(f"{name}: received {value:g}, expected at least {limit}")
    for name in shares:
        for value in _values(settings, name):
            if not 0 < value <= 1:
                raise ValueError(f"{name}: received {value:g}, expected more than 0 and at most 1")


def _values(settings, name):
    value = getattr(settings, name)
    return value if isinstance(value, tuple) else (value,)
