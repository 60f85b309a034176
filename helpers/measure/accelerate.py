"""The same function, sooner: a frozen copy of a model made for evaluation."""

import copy
import warnings
from collections import Counter

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)


def accelerate(model, *, fold=True, channels_last=True, bf16=None, compile=False):
    """A frozen copy of `model` in eval mode: images (N,C,H,W) in [0,1] -> float32 logits (N,K), sooner.

    fold: put each BatchNorm into the convolution before it (the same function).  A part that
        torch.fx cannot follow keeps its own, with a warning.
    channels_last: memory format of images and weights, else torch's default (the same function).
    bf16: convolve in bfloat16; by default where the processor computes in it.  The images and
        the last linear layer stay in fp32: logits of 8 bits would often tie.
    compile: torch.compile; takes a minute at first, so only for long attacks.
    """
    net = copy.deepcopy(model).eval().requires_grad_(False)
    if fold:
        _fold(net)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net.to(memory_format=layout)
    if bf16 is None:
        bf16 = has_bf16(next((t.device for t in net.parameters()), torch.device("cpu")))
    if bf16:
        linear = [layer for layer in net.modules() if type(layer) is nn.Linear]
        for layer in net.modules():
            if isinstance(layer, CONVOLUTIONS):
                layer.bfloat16()  # once: autocast would cast frozen weights again in each pass
        for layer in linear[-1:]:
            layer.__class__ = _Float32Linear
    fast = _Fast(net, layout, bf16)
    return torch.compile(fast, dynamic=True) if compile else fast


def has_bf16(where):
    """Whether the device `where` computes in bfloat16, rather than imitating it slowly."""
    if where.type == "cuda":
        return torch.cuda.get_device_capability(where) >= (8, 0)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


class _Fast(nn.Module):
    def __init__(self, net, layout, bf16):
        super().__init__()
        self.net, self.layout, self.bf16 = net, layout, bf16

    def forward(self, x):
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            return self.net(x.contiguous(memory_format=self.layout)).float()


class _Float32Linear(nn.Linear):
    def forward(self, x):
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.float(), self.weight, self.bias)


def _fold(net):
    """Fold the BatchNorms of `net` in place: into the convolution before, and an identity in its place.

    The graph only says who follows whom; the network goes on running its own code.
    """
    if not any(isinstance(layer, _BatchNorm) for layer in net.modules()):
        return
    try:
        graph = fx.symbolic_trace(net).graph
    except Exception as error:  # whatever the network's own code raises when it meets a symbol
        warnings.warn(f"torch.fx cannot follow {type(net).__name__} ({error}): folding its parts one by one", stacklevel=3)
        for child in net.children():
            _fold(child)
        return
    layers = dict(net.named_modules())
    called = [node for node in graph.nodes if node.op == "call_module"]
    times = Counter(id(layers[node.target]) for node in called)
    for node in called:
        before = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else node
        norm, conv = layers[node.target], layers.get(before.target) if before.op == "call_module" else None
        if not (isinstance(norm, _BatchNorm) and norm.track_running_stats and isinstance(conv, CONVOLUTIONS)):
            continue
        if len(before.users) == 1 and times[id(norm)] == times[id(conv)] == 1:  # one that is used twice stays
            net.set_submodule(before.target, fuse_conv_bn_eval(conv, norm, isinstance(conv, nn.ConvTranspose2d)))
            net.set_submodule(node.target, nn.Identity())
