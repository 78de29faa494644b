"""One network trained many times, each time from other weights: it is compiled once."""

import keras

from ..zoo import builders
from . import mixed_precision
from .fit import compile_stage
from .stages import Stage


class Trainer:
    """A network that is trained many times, each time from other weights, and compiled once.

    To compile a deep network takes as long as hundreds of steps. Optimiser and augmentation begin afresh each time, so
    that a training does not depend on those before it.

    Args:
        build: how the network is built, as cards have it, see `zoo.builders.build`.
        precision: of the computations in training, see `training.precision`.
        augmentation: Keras layer applied to the training images; None for none.
        momentum: of the moving averages of batch norm, in place of the network's own; None for that. Averages that
            follow within tens of steps need 0.9.

    Attributes:
        exact: the same network in float32; after `fit` it has the weights that came of it.

    Example:

    ```python
    trainer = Trainer(build, momentum=0.9)
    trainer.fit(builders.build(build, weights="imagenet").get_weights(), batches, rate=1e-4, steps=100)
    scores = trainer.exact.predict(images)
    ```
    """

    def __init__(self, build, precision="float32", augmentation=None, momentum=None):
        with mixed_precision.precision(precision):
            self.model = builders.build(build)
        if momentum is not None:
            set_momentum(self.model, momentum)
        self.exact = builders.build(build)
        self.augmentation = augmentation
        self.compiled, self.fresh = None, []

    def fit(self, weights, batches, rate, steps):
        """Trains all layers from `weights`; the float32 network `exact` then has what came of them.

        Args:
            weights: list of arrays, as `get_weights` gives them.
            batches: `Batches` of the training images; their order is that of epoch 0, 1, ...
            rate: learning rate of Adam.
            steps: how many, 1 or more.

        Returns:
            list of dict `epoch, steps, loss, accuracy` (and `auc` of two classes), of the training images, one for
            each pass over them.
        """
        self.model.set_weights(weights)
        if self.compiled is None:
            self.compiled = compile_stage(self.model, Stage(1, rate), batches, self.augmentation)
            # Random states too, of the augmentation and of dropout: none of them is among the weights.
            kept = {id(variable) for variable in self.model.weights}
            moving = [variable for variable in self.compiled.variables if id(variable) not in kept]
            moving += self.compiled.optimizer.variables
            self.fresh = [(variable, keras.ops.convert_to_numpy(variable)) for variable in moving]
        for variable, value in self.fresh:
            variable.assign(value)
        self.compiled.optimizer.learning_rate = rate
        history = []
        for step in range(steps):
            batches.epoch, index = divmod(step, len(batches))
            if index == 0:
                self.compiled.reset_metrics()
            found = self.compiled.train_on_batch(*batches[index], return_dict=True)
            if index == len(batches) - 1 or step == steps - 1:
                found = {name: float(value) for name, value in found.items()}
                history.append({"epoch": batches.epoch, "steps": step + 1} | found)
        self.exact.set_weights(self.model.get_weights())
        return history


def set_momentum(model, momentum):
    """Sets how slowly the moving averages of all batch norm layers of a network follow, in [0, 1)."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = momentum
