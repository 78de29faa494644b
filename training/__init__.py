"""Stages and their schedule, fitting, resuming."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    names={
        "augmentation": ["affine_augmentation", "crop_augmentation", "mammogram_augmentation"],
        "fit": ["compile_stage", "fit_stages", "validation_metrics"],
        "mixed_precision": ["precision"],
        "repeated": ["Trainer", "set_momentum"],
        "settings": ["check_settings", "parse_settings"],
        "stages": ["Stage", "make_optimizer", "set_trainable"],
        "weights": ["inverse_class_weights", "inverse_label_weights"],
    },
)
