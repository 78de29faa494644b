"""The one sentence for a name that nobody registered."""

from difflib import get_close_matches


def unknown(kind, received, known):
    """One line: what was received, the nearest right name, and all of them.

    >>> unknown("backbone", "resnet5", ["resnet18", "resnet50"])
    "unknown backbone 'resnet5': did you mean 'resnet50'? Known: resnet18, resnet50"
    """
    near = get_close_matches(str(received), [str(name) for name in known], n=1)
    hint = f": did you mean {near[0]!r}? " if near else ". "
    return f"unknown {kind} {received!r}{hint}Known: {', '.join(sorted(map(str, known)))}"


def require(kind, received, known):
    """Raises ValueError, with the nearest right name, when a name is not among `known`."""
    if received not in known:
        raise ValueError(unknown(kind, received, known))
