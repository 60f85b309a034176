"""What a hidden layer of a network says of an image."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def features_at(model: nn.Module, layer: str) -> Iterator[Callable[[Tensor], tuple[Tensor, Tensor]]]:
    """Yield `see(images) -> (logits, features)`: one pass of `model`, and what its `layer` gave in it.

    layer: a submodule's name in `model.named_modules()`, such as "blocks.2.conv2"; ValueError with the names
        if there is none.
    features: (N,...), the layer's output, through which gradients flow.
    """
    outputs = []

    def keep(module, inputs, output):
        outputs.append(output.clone())  # a copy: a ReLU that works in place may follow

    def see(images):
        outputs.clear()
        logits = model(images)
        return logits, outputs[-1]

    hook = _layer(model, layer).register_forward_hook(keep)
    try:
        yield see
    finally:
        hook.remove()


@contextmanager
def features_only(model: nn.Module, layer: str) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield `see(images) -> features`, as `features_at`, by passes that end at the layer."""

    def stop(module, inputs, output):
        raise _Reached(output)

    def see(images):
        try:
            model(images)
        except _Reached as reached:
            return reached.args[0]
        raise ValueError(f"the model has a layer {layer!r}, but its pass does not reach it: name another")

    hook = _layer(model, layer).register_forward_hook(stop)
    try:
        yield see
    finally:
        hook.remove()


class _Reached(Exception):
    """Carries the output of the layer that has been reached."""


def _layer(model: nn.Module, name: str) -> nn.Module:
    modules = dict(model.named_modules())
    if name not in modules or not name:
        names = ", ".join(name for name in modules if name)
        raise ValueError(f"the model has no layer {name!r}; it has {names or 'none'}")
    return modules[name]
