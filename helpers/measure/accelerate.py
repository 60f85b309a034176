"""The same function, sooner: a frozen copy of a model made for evaluation."""

import copy
import logging
import time
import warnings
from collections import Counter

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval

from helpers.attacks.pgd import margin

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)

LOGGER = logging.getLogger(__name__)

# Images on which `quickest` tries its candidates.
FEW = 16

# e to the minus this rounds to nothing in float32, and with it the gradient of a cross-entropy.
SATURATED = 88

# What a probability of 0 is taken for: the least number in float32.
TINY = torch.finfo(torch.float32).tiny


def quickest(model: nn.Module, x: Tensor, y: Tensor, *, gradients: bool = True) -> nn.Module:
    """What to attack in place of `model`: the soonest of its copies that answers as it does, or itself.

    model: images (N,C,H,W) in [0,1] -> logits (N,K), in eval mode and frozen.
    x, y: images and their labels; the first `FEW` are looked at.
    -> a module that gives the same labels; the log (INFO) says what was taken.
    gradients: whether they matter, besides the logits.
    A copy must give nearly all images the model's label, and the margin's gradient the same sign in 95 of 100
    pixels; in bfloat16 some networks do not (those that decide by thresholds, for example).
    Outputs that are probabilities are attacked by their logarithm, and logits so large that the cross-entropy
    loses its gradient are divided, with a warning: the same labels, and a gradient where there was none.
    A warning, too, where no copy can be made.
    """
    x, y = x[:FEW], y[:FEW]
    try:
        answers = _answers(model, x, y)
    except RuntimeError:  # no gradient at all, which the attack will say
        return model
    fit = {"the model itself": model}
    for bf16 in (False, True) if has_bf16(x.device) else (False,):
        try:
            candidate = accelerate(model, bf16=bf16)
            found = _answers(candidate, x, y)
        except Exception as error:  # whatever a network's own code raises when it is copied
            message = f"no copy of {type(model).__name__} can be attacked in its place: {error}"
            warnings.warn(message, stacklevel=3)
            break
        same = [(a == b).float().mean() > 0.95 for a, b in zip(answers, found, strict=True)]
        if all(same if gradients else same[:1]):
            fit[f"a copy in {'bf16' if bf16 else 'fp32'}"] = candidate
    seconds = {name: min(_seconds(net, x, y) for _ in range(3)) for name, net in fit.items()}
    seconds["the model itself"] *= 0.9  # a copy has to be worth it
    best = min(seconds, key=seconds.get)
    LOGGER.info("attacked: %s", best)
    return _legible(fit[best], x, y)


def _margins(model, x, y):
    """The logits, and the gradient of the sum of their margins (class `y` above the largest other)."""
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        logits = model(x.clone())  # a leaf may not be changed in place
        return logits.detach(), torch.autograd.grad(margin(logits, y).sum(), x)[0]


def _answers(model, x, y):
    logits, gradient = _margins(model, x, y)
    return logits.argmax(1), gradient.sign()


def _seconds(model, x, y):
    """Of a pass to the margins and back; on a CPU its own time, whoever else is at work."""
    clock = time.perf_counter if x.is_cuda else time.process_time
    started = clock()
    _margins(model, x, y)[1].sum().item()  # waits for a GPU
    return clock() - started


def _legible(model, x, y):
    """`model`, or outputs made from its own that a cross-entropy has a gradient on."""
    with torch.no_grad():
        logits = model(x.clone())
    log = bool((logits >= 0).all() and ((logits.sum(1) - 1).abs() < 1e-3).all())
    logits = logits.clamp_min(TINY).log() if log else logits
    apart = margin(logits, y).abs().median().item()
    scale = apart / 10 if apart > SATURATED else 1.0
    if log:
        warnings.warn("the model's outputs are probabilities: attacked by their logarithm", stacklevel=4)
    if scale > 1:
        message = f"logits {apart:.0f} apart leave no gradient: attacked divided by {scale:.0f}"
        warnings.warn(message, stacklevel=4)
    return _Legible(model, log, scale) if log or scale > 1 else model


class _Legible(nn.Module):
    def __init__(self, net: nn.Module, log: bool, scale: float):
        super().__init__()
        self.net, self.log, self.scale = net, log, scale

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.net(x)
        return (outputs.clamp_min(TINY).log() if self.log else outputs) / self.scale


def accelerate(
    model: nn.Module,
    *,
    fold: bool = True,
    channels_last: bool = True,
    bf16: bool | None = None,
    compile: bool = False,
) -> nn.Module:
    """A frozen copy of `model` in eval mode: images (N,C,H,W) in [0,1] -> float32 logits (N,K), sooner.

    fold: put each BatchNorm into the convolution before it (the same function).  A part that
        torch.fx cannot follow keeps its own, with a warning.
    channels_last: memory format of images and weights, else torch's default (the same function).
    bf16: convolve in bfloat16; by default where the processor computes in it.  The images and
        the last linear layer stay in fp32: logits of 8 bits would often tie.
    compile: torch.compile; takes a minute at first, so only for long attacks.
    """
    net = _copy(model).eval().requires_grad_(False)
    if fold:
        _fold(net)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net.to(memory_format=layout)
    if bf16 is None:
        bf16 = has_bf16(next((t.device for t in net.parameters()), torch.device("cpu")))
    if bf16:
        net = _convolve_in_bf16(net)
    fast = _Fast(net, layout, bf16)
    return torch.compile(fast, dynamic=True) if compile else fast


def has_bf16(where: torch.device) -> bool:
    """Whether the device `where` computes in bfloat16, rather than imitating it slowly."""
    if where.type == "cuda":
        return torch.cuda.get_device_capability(where) >= (8, 0)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


class _Fast(nn.Module):
    """The copy, given images of its own, in its memory format and autocast."""

    def __init__(self, net: nn.Module, layout: torch.memory_format, bf16: bool):
        super().__init__()
        self.net, self.layout, self.bf16 = net, layout, bf16

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            return self.net(x.clone(memory_format=self.layout)).float()


class _InFloat32(nn.Module):
    """A linear layer that stays out of autocast."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.float(), self.weight, self.bias)


def _convolve_in_bf16(net: nn.Module) -> nn.Module:
    """`net` with the weights of its convolutions in bfloat16 and its last linear layer in fp32."""
    for layer in net.modules():
        if isinstance(layer, CONVOLUTIONS):
            layer.bfloat16()  # once: autocast would cast frozen weights again in each pass
    linear = [name for name, layer in net.named_modules() if type(layer) is nn.Linear]
    if not linear:
        return net
    if not linear[-1]:  # the network is nothing but that layer
        return _InFloat32(net)
    net.set_submodule(linear[-1], _InFloat32(net.get_submodule(linear[-1])))
    return net


def _copy(model: nn.Module) -> nn.Module:
    """A deep copy, with plain weights where they are computed from others in each pass (`parametrize`)."""
    # Older ways (pruning, weight_norm) leave a pass's result in the layer, and torch copies no such tensor.
    made = [
        t for layer in model.modules() for t in vars(layer).values() if torch.is_tensor(t) and not t.is_leaf
    ]
    net = copy.deepcopy(model, {id(t): t.detach().clone() for t in made})
    for layer in filter(parametrize.is_parametrized, list(net.modules())):
        # torch's own `remove_parametrizations` would take them out of the class, which the model shares.
        weights = {name: nn.Parameter(getattr(layer, name).detach()) for name in layer.parametrizations}
        layer.__class__ = parametrize.type_before_parametrizations(layer)
        del layer.parametrizations
        for name, weight in weights.items():
            layer.register_parameter(name, weight)
    return net


def _fold(net: nn.Module) -> None:
    """Fold the BatchNorms of `net` in place: into the convolution before, an identity in their place.

    The graph only says who follows whom; the network goes on running its own code.
    """
    if not any(isinstance(layer, _BatchNorm) for layer in net.modules()):
        return
    try:
        graph = fx.symbolic_trace(net).graph
    except Exception as error:  # whatever the network's own code raises when it meets a symbol
        message = f"torch.fx cannot follow {type(net).__name__} ({error}): folding its parts one by one"
        warnings.warn(message, stacklevel=3)
        for child in net.children():
            _fold(child)
        return
    layers = dict(net.named_modules())
    called = [node for node in graph.nodes if node.op == "call_module"]
    times = Counter(id(layers[node.target]) for node in called)
    for node in called:
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module":
            continue
        norm, conv = layers[node.target], layers[before.target]
        if not (isinstance(norm, _BatchNorm) and norm.track_running_stats and isinstance(conv, CONVOLUTIONS)):
            continue
        # What is used twice, or whose output somebody else reads, or whose weight a hook makes, stays.
        alone = len(before.users) == 1 and times[id(norm)] == times[id(conv)] == 1
        if alone and not conv._forward_pre_hooks:
            fused = fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d))
            net.set_submodule(before.target, fused)
            net.set_submodule(node.target, nn.Identity())
