"""One line on standard error that says how far long work is."""

import sys


def show(what, done, total):
    """Writes `what: done/total` over the line before, and ends the line when all is done.

    Args:
        what: str, what is being done, such as "reading images".
        done, total: how much of how much.
    """
    end = "\n" if done == total else ""
    print(f"\r{what}: {done}/{total}", end=end, file=sys.stderr, flush=True)
