"""A GPU that there is not: real numbers on the CPU, while each tensor knows on which device it would be.

Tensors on the device `virtual` are wrappers around ordinary ones.  Where CUDA would refuse tensors of two
devices this raises; where a program would wait for the GPU it is written down (`WAITS`).
"""

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend


class Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self):
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend("virtual", Backend())
GPU = torch.device("virtual", 0)
WAITS = []  # operators that wait for the device, in their order

GENERATORS = {}  # their devices, by what torch knows them by

# Operators whose result the host reads, or whose size depends on the numbers.
READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "bincount")
# Those that take tensors of both: copies, and indices from the host.
MIXED = ("copy_", "_to_copy", "index", "index_put", "index_put_", "_index_put_impl_", "set_data")


class OnDevice(torch.Tensor):
    """A tensor on the virtual device; its numbers are in `inner`."""

    @staticmethod
    def __new__(cls, inner):
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        return torch.Tensor._make_wrapper_subclass(cls, inner.size(), dtype=inner.dtype, device=GPU, **layout)

    def __init__(self, inner):
        self.inner = inner

    def __getitem__(self, index):
        parts = index if isinstance(index, tuple) else (index,)
        # Lists become tensors below operators.
        return super().__getitem__(tuple(from_numbers(p) if isinstance(p, list) else p for p in parts))

    def __format__(self, form):
        # torch formats the number of its own class alone.
        return format(self.item(), form) if self.ndim == 0 else super().__format__(form)

    def tolist(self):
        WAITS.append("tolist")
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


class Virtual(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


def run(function, args, kwargs):
    """One operator, as it would run with a GPU."""
    name = function._schema.name.removeprefix("aten::")
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = [isinstance(tensor, OnDevice) for tensor in tensors]
    wanted = kwargs.get("device")
    goes = any(there) if wanted is None else torch.device(wanted).type == GPU.type
    others = [tensor for tensor, on in zip(tensors, there, strict=True) if not on and tensor.ndim]
    if any(there) and others and name not in MIXED:
        raise RuntimeError(f"{name}: tensors of two devices, one from the host is {tuple(others[0].shape)}")
    if any(there) and not there[0] and name.startswith("index"):
        raise RuntimeError(f"{name}: a tensor of the host, with indices on the device")
    if (generator := kwargs.get("generator")) is not None:
        assert GENERATORS.get(generator._cdata, "cpu") == (GPU.type if goes else "cpu"), f"{name}: generator"
    indices = tree_leaves(args[1]) if name.startswith("index") else []
    by_mask = any(torch.is_tensor(index) and index.dtype == torch.bool for index in indices)
    back = (wanted is not None and any(there) and not goes) or (name == "copy_" and there == [False, True])
    if any(there) and (name in READS or by_mask or back):
        WAITS.append(name)

    bare_args, bare = tree_map_only(OnDevice, lambda tensor: tensor.inner, (args, kwargs))
    result = function(*bare_args, **({**bare, "device": "cpu"} if wanted is not None else bare))
    if not goes or name == "_local_scalar_dense" or (name == "copy_" and not there[0]):
        return result
    result = tree_map_only(torch.Tensor, OnDevice, result)
    return return_and_correct_aliasing(function, args, kwargs, result) if any(there) else result


class Generator(torch.Generator):
    """Random numbers for a device, drawn on the CPU."""

    def __new__(cls, device="cpu"):
        made = super().__new__(cls)
        GENERATORS[made._cdata] = torch.device(device).type
        return made


def moved(module):
    """The module on the device."""
    for part in module.modules():
        for store in (part._parameters, part._buffers):
            for name, tensor in store.items():
                if tensor is not None and not isinstance(tensor, OnDevice):
                    there = OnDevice(tensor.detach().clone())
                    is_weight = isinstance(tensor, nn.Parameter)
                    store[name] = nn.Parameter(there, tensor.requires_grad) if is_weight else there
    return module


MADE = torch.tensor  # works below operators


def from_numbers(data, device=None, **how):
    """`torch.tensor`, by way of the host."""
    return MADE(data, **how).to(device or "cpu")


class OneThread(torch.inference_mode):
    """`torch.inference_mode`, which else lets backward passes use another thread: it knows of no device."""

    def __enter__(self):
        super().__enter__()
        torch.autograd.set_multithreading_enabled(False)


def enter():
    """Everything that this process does from here on is on the device, as a notebook's first cell has it."""
    import helpers

    helpers.device = lambda: GPU  # before any module takes it over
    from helpers.lab import make

    make.CHUNK[GPU.type], make.MEMORY[GPU.type] = make.CHUNK["cpu"], 0
    make.kept = lambda model, x: 0  # of no memory
    torch.Generator, torch.tensor, torch.inference_mode = Generator, from_numbers, OneThread
    torch.autograd.set_multithreading_enabled(False)
    Virtual().__enter__()
