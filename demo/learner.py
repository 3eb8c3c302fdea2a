"""A model that learns: its weights in float32, its optimizer, and one step after the other.

The only file here that trains with MLX; knows nothing about where the batches come from.
"""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models.qwen3 import Model, ModelArgs
from numpy.typing import NDArray

LARGEST_GRADIENT = 1.0
"""Longer gradients are scaled down to this norm."""


def new_model(configuration: dict[str, Any], seed: int) -> Model:
    """A model of this shape with random weights."""
    mx.random.seed(seed)
    model = Model(ModelArgs.from_dict(configuration))
    model.update(tree_map(_initial, model.parameters()))
    return model


def _initial(weight: mx.array) -> mx.array:
    return weight if weight.ndim == 1 else mx.random.normal(weight.shape) * 0.02


def _bfloat16(weight: mx.array) -> mx.array:
    return weight.astype(mx.bfloat16)


class Learner:
    """AdamW over a model: computes in bfloat16 and keeps its weights in float32."""

    def __init__(self, model: Model, weight_decay: float) -> None:
        self.model = model
        self._optimizers = [
            optim.AdamW(0.0, betas=[0.9, 0.95], weight_decay=decay, bias_correction=True)
            for decay in (weight_decay, 0.0)  # the matrices, and the vectors that scale
        ]
        self._optimizer = optim.MultiOptimizer(
            self._optimizers, [lambda _, weight: weight.ndim > 1]
        )
        weights = model.parameters()
        self._optimizer.init(weights)
        self._state = [weights, self._optimizer.state]
        self._update = mx.compile(self._update_once, inputs=self._state, outputs=self._state)

    def step(self, ids: NDArray[Any], learned: NDArray[np.bool_], rate: float) -> mx.array:
        """Start to learn a batch, both [rows, length + 1]; returns the loss that will be."""
        for optimizer in self._optimizers:
            optimizer.learning_rate = mx.array(rate)
        loss = self._update(mx.array(ids.astype(np.int32)), mx.array(learned))
        mx.async_eval(loss, self._state)  # type: ignore[no-untyped-call]
        return loss

    def save(self, folder: Path, configuration: dict[str, Any]) -> None:
        """Write the weights in bfloat16, and the configuration, in the Hugging Face layout."""
        weights = dict(tree_flatten(tree_map(_bfloat16, self._state[0])))
        mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
        (folder / "config.json").write_text(json.dumps(configuration, indent=1) + "\n")

    def _update_once(self, ids: mx.array, learned: mx.array) -> mx.array:
        loss, gradients = mx.value_and_grad(self._loss)(self._state[0], ids, learned)
        gradients, _ = optim.clip_grad_norm(gradients, LARGEST_GRADIENT)
        self._state[0] = self._optimizer.apply_gradients(gradients, self._state[0])
        self._state[1] = self._optimizer.state
        return loss

    def _loss(self, weights: Any, ids: mx.array, learned: mx.array) -> mx.array:
        """The mean over all learned tokens, itself in float32."""
        self.model.update(tree_map(_bfloat16, weights))
        logits = self.model(ids[:, :-1]).astype(mx.float32)
        losses = nn.losses.cross_entropy(logits, ids[:, 1:])
        mean: mx.array = (losses * learned[:, 1:]).sum() / learned[:, 1:].sum()
        return mean
