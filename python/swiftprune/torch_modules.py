"""Packed weights as torch modules and operators, on the processor and on GPUs. Import it only where torch is installed.

`torch.ops.swiftprune.packed_linear` and `packed_rows` take the packed bytes as a tensor of uint8, so that a module's
state, copies and files are torch's own, and torch.compile sees one operator. The bytes stay in the processor's memory: where
x lies on a GPU, the first product makes a copy there, in the order of the GPU's kernels.
"""

from __future__ import annotations

import atexit
import weakref
from typing import Any, Dict, Optional, Tuple

import torch
from torch import Tensor, nn

from . import _swiftprune
from .errors import DeviceError, InputError

_TYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
# By the address of the bytes. An entry of memory that is gone does no harm: matches() compares the header, which holds
# a checksum of all the bytes.
_PARSED: Dict[int, _swiftprune.PackedWeight] = {}
# On a GPU: by that address, the GPU's number and the type of x that grids are multiplied in.
_ON_GPU: Dict[Tuple[int, int, torch.dtype], Tuple[_swiftprune.PackedWeight, _swiftprune.GpuWeight]] = {}
atexit.register(_ON_GPU.clear)
atexit.register(_PARSED.clear)  # torch keeps the operators, and so this module, beyond the extension module's end


def _parsed(packed: Tensor) -> _swiftprune.PackedWeight:
    if packed.device.type != "cpu":
        raise DeviceError(f"packed: found it on {packed.device}, expected it in the processor's memory, where modules keep "
                          "it; x alone moves to a GPU")
    address = packed.data_ptr()
    weight = _PARSED.get(address)
    if weight is None or not weight.matches(packed.numel()):
        if packed.dtype != torch.uint8 or packed.dim() != 1 or not packed.is_contiguous():
            raise InputError(f"packed: found {packed.dtype} of shape {tuple(packed.shape)}, expected uint8 of rank 1")
        weight = _PARSED[address] = _swiftprune.PackedWeight(address, packed.numel(), "packed weight")
    return weight


def _type_of(dtype: torch.dtype) -> str:
    try:
        return _TYPES[dtype]
    except KeyError:
        raise InputError(f"x: found {dtype}, expected float32, bfloat16 or float16") from None


def _checked(x: Tensor, packed: Tensor, bias: Optional[Tensor], out_features: int) -> _swiftprune.PackedWeight:
    weight = _parsed(packed)
    if x.shape[-1] != weight.cols or out_features != weight.rows:
        raise InputError(f"x: found {x.shape[-1]} inputs and {out_features} outputs, expected {weight.cols} and "
                         f"{weight.rows}")
    if bias is not None and bias.shape != (out_features,):
        raise InputError(f"bias: found shape {tuple(bias.shape)}, expected ({out_features},)")
    return weight


def _address(tensor: Optional[Tensor]) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _linear(x: Tensor, packed: Tensor, bias: Optional[Tensor], out_features: int, bf16_products: bool) -> Tensor:
    weight = _checked(x, packed, bias, out_features)
    x = x.contiguous()
    y = x.new_empty((*x.shape[:-1], out_features))
    if bias is not None:
        bias = bias.float().contiguous()
    weight.multiply(x.data_ptr(), _address(bias), y.data_ptr(), y.numel() // out_features, _type_of(x.dtype), bf16_products,
                    torch.get_num_threads())
    return y


def _on_gpu(packed: Tensor, device: torch.device, dtype: torch.dtype) -> _swiftprune.GpuWeight:
    gpu = torch.cuda.current_device() if device.index is None else device.index
    grid_dtype = torch.float16 if dtype == torch.float16 else torch.bfloat16
    key = (packed.data_ptr(), gpu, grid_dtype)
    found = _ON_GPU.get(key)
    parsed = _parsed(packed)
    if found is None or found[0] is not parsed:
        found = parsed, _swiftprune.GpuWeight(packed.data_ptr(), packed.numel(), gpu, _TYPES[grid_dtype])
        _ON_GPU[key] = found
    return found[1]


def _linear_on_gpu(x: Tensor, packed: Tensor, bias: Optional[Tensor], out_features: int, bf16_products: bool) -> Tensor:
    """Products of 16 bits with sums in float32, whatever bf16_products says."""
    _checked(x, packed, bias, out_features)
    _type_of(x.dtype)
    weight = _on_gpu(packed, x.device, x.dtype)
    operand = next(kind for kind, name in _TYPES.items() if name == weight.dtype)
    result = x.dtype if x.dtype == operand else torch.float32
    operands = x.to(operand).contiguous()
    if bias is not None:
        bias = bias.to(result).contiguous()
    y = x.new_empty((*x.shape[:-1], out_features), dtype=result)
    if y.numel() > 0:
        weight.multiply(operands.data_ptr(), _address(bias), y.data_ptr(), y.numel() // out_features, _TYPES[result],
                        torch.cuda.current_stream(x.device).cuda_stream)
    return y.to(x.dtype)


def _forget(address: int) -> None:
    """Frees what a GPU holds of it; whoever shares the bytes makes it again."""
    _PARSED.pop(address, None)
    for key in [key for key in _ON_GPU if key[0] == address]:
        _ON_GPU.pop(key, None)


def _rows(ids: Tensor, packed: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    weight = _parsed(packed)
    if width != weight.cols:
        raise InputError(f"width: found {width}, expected {weight.cols}")
    ids = ids.long().contiguous()
    rows = torch.empty((*ids.shape, width), dtype=dtype)
    weight.look_up(ids.data_ptr(), ids.numel(), rows.data_ptr(), _type_of(dtype))
    return rows


def _rows_for_gpu(ids: Tensor, packed: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """The table stays in the processor's memory: a few rows travel."""
    return _rows(ids.cpu(), packed, width, dtype).to(ids.device)


def _backward(ctx: Any, gradient: Tensor) -> Tuple[Optional[Tensor], None, Optional[Tensor], None, None]:
    """Of x and bias; the packed weight stays as it is."""
    of_x = of_bias = None
    if ctx.needs_input_grad[0]:
        weight = _parsed(ctx.packed)
        values = torch.empty((weight.rows, weight.cols), dtype=torch.float32)
        weight.unpack(values.data_ptr())
        of_x = (gradient.float() @ values.to(gradient.device)).to(gradient.dtype)
    if ctx.needs_input_grad[2]:
        of_bias = gradient.sum(dim=tuple(range(gradient.dim() - 1))).to(ctx.bias_dtype)
    return of_x, None, of_bias, None, None


def _keep_for_backward(ctx: Any, inputs: Tuple[Any, ...], output: Tensor) -> None:
    _, ctx.packed, bias, _, _ = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype


_LIBRARY = torch.library.Library("swiftprune", "DEF")
_LIBRARY.define("packed_linear(Tensor x, Tensor packed, Tensor? bias, int out_features, bool bf16_products) -> Tensor")
_LIBRARY.define("packed_rows(Tensor ids, Tensor packed, int width, ScalarType dtype) -> Tensor")
_LIBRARY.impl("packed_linear", _linear, "CPU")
_LIBRARY.impl("packed_rows", _rows, "CPU")
_LIBRARY.impl("packed_linear", _linear_on_gpu, "CUDA")
_LIBRARY.impl("packed_rows", _rows_for_gpu, "CUDA")
torch.library.register_autograd("swiftprune::packed_linear", _backward, setup_context=_keep_for_backward, lib=_LIBRARY)


@torch.library.register_fake("swiftprune::packed_linear", lib=_LIBRARY)  # type: ignore[misc, unused-ignore]
def _linear_shape(x: Tensor, packed: Tensor, bias: Optional[Tensor], out_features: int, bf16_products: bool) -> Tensor:
    return x.new_empty((*x.shape[:-1], out_features))


@torch.library.register_fake("swiftprune::packed_rows", lib=_LIBRARY)  # type: ignore[misc, unused-ignore]
def _rows_shape(ids: Tensor, packed: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    return ids.new_empty((*ids.shape, width), dtype=dtype)


_dispatch_modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)


def _is_plain(x: Tensor) -> bool:
    """Whether nobody listens to operators (derivatives, compilers, modes): their dispatch takes as long as a small
    product of one token."""
    return (type(x) is Tensor and not torch.is_grad_enabled() and x.device.type == "cpu" and
            not torch.compiler.is_compiling() and _dispatch_modes() == 0)


class PackedBytes(nn.Module):
    """Stands where a module's `weight` would be, so that states have the packed folder's names: "….weight.packed"."""

    packed: Tensor

    def __init__(self, packed: Tensor, *, persistent: bool = True) -> None:
        super().__init__()
        self.register_buffer("packed", packed, persistent=persistent)
        weakref.finalize(self, _forget, packed.data_ptr())

    def _apply(self, fn: Any, recurse: bool = True) -> PackedBytes:
        return self  # bytes have no dtype to change, and they do not move with the model

    @property
    def description(self) -> str:
        """Its kind, such as "bitmap16", "2:4" or "bitmap int4 g64"."""
        return _parsed(self.packed).description


class PackedLinear(nn.Module):
    """y = x Wᵀ + bias with a packed W [out_features, in_features], for one token or many.

    Args:
        packed: uint8, as `swiftprune pack` stores a weight; it may be memory that only can be read.
        bias: [out_features] or None.
        bf16_products: whether products of many tokens may round to bf16; a few tokens always meet float32.
        persistent: whether the packed bytes are part of the module's state.
    """

    bias: Optional[Tensor]

    def __init__(self, packed: Tensor, bias: Optional[Tensor] = None, *, bf16_products: bool = False,
                 persistent: bool = True) -> None:
        super().__init__()
        weight = _parsed(packed)
        self.in_features, self.out_features = weight.cols, weight.rows
        self.bf16_products = bf16_products
        self.weight = PackedBytes(packed, persistent=persistent)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=bias.requires_grad))

    def forward(self, x: Tensor) -> Tensor:
        function = _linear if _is_plain(x) else torch.ops.swiftprune.packed_linear
        return function(x, self.weight.packed, self.bias, self.out_features, self.bf16_products)

    def extra_repr(self) -> str:
        return (f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
                f"kind={self.weight.description}")


class PackedEmbedding(nn.Module):
    """Rows of a table of few bits.

    Args:
        packed: uint8, as `swiftprune pack --quantize-embeddings` stores a table.
        dtype: of the rows.
    """

    def __init__(self, packed: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        weight = _parsed(packed)
        self.num_embeddings, self.embedding_dim = weight.rows, weight.cols
        self.dtype = dtype
        self.weight = PackedBytes(packed)

    def forward(self, ids: Tensor) -> Tensor:
        return torch.ops.swiftprune.packed_rows(ids, self.weight.packed, self.embedding_dim, self.dtype)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, kind={self.weight.description}"
