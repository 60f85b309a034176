"""The same function, sooner: a frozen copy of a model made for evaluation."""

import copy
import warnings
from collections import Counter

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)


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
    net = copy.deepcopy(model).eval().requires_grad_(False)
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
    """The copy, given its images in its own memory format and autocast."""

    def __init__(self, net: nn.Module, layout: torch.memory_format, bf16: bool):
        super().__init__()
        self.net, self.layout, self.bf16 = net, layout, bf16

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            return self.net(x.contiguous(memory_format=self.layout)).float()


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
        # A layer that is used twice, or whose output somebody else reads, stays as it is.
        if len(before.users) == 1 and times[id(norm)] == times[id(conv)] == 1:
            fused = fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d))
            net.set_submodule(before.target, fused)
            net.set_submodule(node.target, nn.Identity())
