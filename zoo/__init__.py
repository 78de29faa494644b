"""Backbones, checkpoints with their cards, and the store that finds and verifies them."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    names={
        "backbones": ["backbone", "groups", "list_backbones"],
        "cards": ["Card"],
        "checkpoints": ["load", "load_weights", "save_checkpoint", "save_weights", "verify"],
        "exporting": ["export"],
        "publishing": ["publish"],
        "store": ["card", "list_models"],
    },
)
