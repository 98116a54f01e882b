"""Packed weights as torch modules and operators, on the processor. Import it only where torch is installed.

`torch.ops.swiftprune.packed_linear` and `packed_rows` take the packed bytes as a tensor of uint8, so that a module's
state, copies and files are torch's own, and torch.compile sees one operator.
"""

from __future__ import annotations

import atexit
from typing import Any, Dict, Optional, Tuple

import torch
from torch import Tensor, nn

from . import _swiftprune
from .errors import DeviceError, InputError

_TYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
# By the address of the bytes. An entry of memory that is gone does no harm: matches() compares the header, which holds
# a checksum of all the bytes.
_PARSED: Dict[int, _swiftprune.PackedWeight] = {}
atexit.register(_PARSED.clear)  # torch keeps the operators, and so this module, beyond the extension module's end


def _parsed(packed: Tensor) -> _swiftprune.PackedWeight:
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


def _linear(x: Tensor, packed: Tensor, bias: Optional[Tensor], out_features: int, bf16_products: bool) -> Tensor:
    weight = _parsed(packed)
    if x.shape[-1] != weight.cols or out_features != weight.rows:
        raise InputError(f"x: found {x.shape[-1]} inputs and {out_features} outputs, expected {weight.cols} and "
                         f"{weight.rows}")
    x = x.contiguous()
    y = x.new_empty((*x.shape[:-1], out_features))
    if bias is not None:
        if bias.shape != (out_features,):
            raise InputError(f"bias: found shape {tuple(bias.shape)}, expected ({out_features},)")
        bias = bias.float().contiguous()
    weight.multiply(x.data_ptr(), 0 if bias is None else bias.data_ptr(), y.data_ptr(), y.numel() // out_features,
                    _type_of(x.dtype), bf16_products, torch.get_num_threads())
    return y


def _rows(ids: Tensor, packed: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    weight = _parsed(packed)
    if width != weight.cols:
        raise InputError(f"width: found {width}, expected {weight.cols}")
    ids = ids.long().contiguous()
    rows = torch.empty((*ids.shape, width), dtype=dtype)
    weight.look_up(ids.data_ptr(), ids.numel(), rows.data_ptr(), _type_of(dtype))
    return rows


def _elsewhere(*_: Any) -> Tensor:
    raise DeviceError("packed weights in torch: found tensors on a GPU, expected the processor; swiftprune.load and "
                      "swiftprune serve run packed models on GPUs")


def _backward(ctx: Any, gradient: Tensor) -> Tuple[Optional[Tensor], None, Optional[Tensor], None, None]:
    """Of x and bias; the packed weight stays as it is."""
    of_x = of_bias = None
    if ctx.needs_input_grad[0]:
        weight = _parsed(ctx.packed)
        values = torch.empty((weight.rows, weight.cols), dtype=torch.float32)
        weight.unpack(values.data_ptr())
        of_x = (gradient.float() @ values).to(gradient.dtype)
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
_LIBRARY.impl("packed_linear", _elsewhere, "CUDA")
_LIBRARY.impl("packed_rows", _elsewhere, "CUDA")
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
