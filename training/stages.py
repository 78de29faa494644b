"""Stages and schedules: which layers train, for how long and how fast."""

from dataclasses import dataclass

import keras

from .._nearest import unknown
from ..zoo.backbones import groups, match_layers

MONITORS = ("val_auc", "val_accuracy", "val_loss")


@dataclass(frozen=True)
class Stage:
    """One stage of a schedule. A schedule is a tuple of stages; each is compiled anew.

    Attributes:
        epochs: passes over the training images, at most.
        learning_rate: of Adam, at the start of the stage.
        train: groups (`"head"`, `"drs"`, `"stage4"`, ...) or patterns of layer names (`"conv5_block3_*"`); `"*"` is
            every layer. Whatever is not named is frozen, its batch norm in inference mode.
        weight_decay: decoupled weight decay of each step, relative to the learning rate (Loshchilov and Hutter 2019),
            on kernels only: biases, batch norm and DRS are left alone. PyTorch's `Adam` couples them: it adds decay
            times weight to the gradient, so that its steps hardly depend on the decay where gradients are large.
        beta_1, beta_2: Adam's decay rates of the first and second moment.
        monitor: what is compared on the validation part: `"val_auc"`, `"val_accuracy"` (larger is better) or
            `"val_loss"`. The weights of the best epoch are kept, those of the first among equals.
        patience: the stage ends after this many epochs without improvement; None for never.
        decay, decay_epochs: the learning rate is multiplied by `decay` after every `decay_epochs` epochs without
            improvement; None for never.
    """

    epochs: int
    learning_rate: float
    train: tuple[str, ...] = ("*",)
    weight_decay: float = 0.0
    beta_1: float = 0.9
    beta_2: float = 0.999
    monitor: str = "val_auc"
    patience: int | None = None
    decay: float = 1.0
    decay_epochs: int | None = None

    def __post_init__(self):
        if isinstance(self.train, str):
            raise ValueError(f"stage: received train {self.train!r}, expected a tuple such as ({self.train!r},)")
        if self.monitor not in MONITORS:
            raise ValueError(unknown("monitor", self.monitor, MONITORS))
        if self.epochs < 1 or self.learning_rate <= 0 or self.weight_decay < 0:
            raise ValueError(
                f"stage: received epochs {self.epochs}, learning_rate {self.learning_rate}, weight_decay "
                f"{self.weight_decay}, expected epochs of at least 1, a positive rate and a decay of at least 0"
            )
        for name in ("patience", "decay_epochs"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(
                    f"stage: received {name} {getattr(self, name)}, expected at least 1, or None for never"
                )


def set_trainable(model, train):
    """Makes the layers that `train` names trainable and freezes all others.

    Args:
        model: functional Keras model.
        train: groups and patterns, as in `Stage.train`.

    Returns:
        Number of trainable parameters.

    Raises:
        ValueError: when an entry of `train` names no layer.
    """
    names = [layer.name for layer in model.layers]
    named = groups(model)
    chosen = set()
    for entry in train:
        found = named.get(entry) or match_layers(names, [entry])
        if not found:
            raise ValueError(unknown("group or layer pattern", entry, [*named, "*"]))
        chosen.update(found)
    model.trainable = True
    for layer in model.layers:
        layer.trainable = layer.name in chosen
    return sum(int(keras.ops.size(variable)) for variable in model.trainable_variables)


def make_optimizer(model, stage):
    """Adam as the stage has it, its weight decay on the kernels alone; scales the loss of a float16 network."""
    if stage.weight_decay:
        optimizer = keras.optimizers.AdamW(
            stage.learning_rate, weight_decay=stage.weight_decay, beta_1=stage.beta_1, beta_2=stage.beta_2
        )
        optimizer.exclude_from_weight_decay(
            var_list=[variable for variable in model.trainable_variables if not variable.name.endswith("kernel")]
        )
    else:
        optimizer = keras.optimizers.Adam(stage.learning_rate, stage.beta_1, stage.beta_2)
    if any(layer.compute_dtype == "float16" for layer in model.layers):
        # Without it small gradients vanish: float16 ends at 6e-8.
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer
