"""A packed folder as a model of transformers."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, Optional, Union

from . import _swiftprune
from .errors import InputError, Note, UsageError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel  # type: ignore[import-not-found, unused-ignore]

_SUFFIX = ".weight.packed"


def to_transformers(model: Union[str, os.PathLike[str]], *, dtype: Union[str, torch.dtype, None] = None,
                    compute: str = "auto") -> PreTrainedModel:
    """Loads a packed folder as transformers' model whose packed linears are multiplied by swiftprune's kernels.

    It is transformers' own class for the folder's config.json, so `generate`, pipelines and cache are transformers'
    own. Packed weights stay in the mapped file and are not copied. What else the folder holds (norms, embeddings) is
    loaded as `dtype`. A projection to logits that is stored in 16 bits is multiplied by our kernels, too, from a copy.

    Args:
        model: a folder of `swiftprune pack`, or of `prune --quantize`, or the id of one in Hugging Face's cache.
        dtype: of activations and of what is not packed: torch.float32 (if None, which is what swiftprune itself
            computes in), torch.bfloat16, torch.float16, or their names.
        compute: whether products of many tokens may round to bf16: "bf16", "f32", or "auto": where the processor
            multiplies bf16 fast. A few tokens always meet float32 sums.
    Returns:
        The model in eval mode, on the processor; `.to("cuda")` moves all but the packed weights, of which the GPU gets
        its own copy when it first multiplies them. There products have 16-bit operands and float32 sums.
    Raises:
        ImportError: torch or transformers is not installed.
        UsageError: dtype or compute is not one of these.
        InputError: a folder without packed weights, a damaged one, a weight that transformers' class has no linear for
            (experts, which it keeps in one tensor).
        DeviceError: later, from a forward on a GPU that lacks memory or code for it.
    """
    if not isinstance(model, (str, os.PathLike)):
        raise UsageError(f"model: found {model!r}, expected a folder or an id")
    if compute not in ("auto", "f32", "bf16"):
        raise UsageError(f"compute: found {compute!r}, expected auto, f32 or bf16")
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ImportError(f"to_transformers: found no {error.name}, expected the packages torch and transformers; "
                          "pip install torch transformers") from None
    types = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    wanted = types.get(dtype) if isinstance(dtype, str) else torch.float32 if dtype is None else dtype
    if wanted not in types.values():
        raise UsageError(f"dtype: found {dtype!r}, expected float32, bfloat16 or float16")

    folder = _swiftprune.PackedFolder(os.fspath(model))
    for note in folder.notes:
        warnings.warn(note, Note, stacklevel=2)
    config = _config(transformers, Path(folder.path))
    name_of_dtype = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    with _parameters_without_memory():
        result = transformers.AutoModelForCausalLM.from_config(config, **{name_of_dtype: wanted})
    bf16 = compute == "bf16" or (compute == "auto" and _swiftprune.multiplies_bf16_fast())
    _Loader(folder, result, wanted, bf16).load()
    if (Path(folder.path) / "generation_config.json").exists():
        result.generation_config = transformers.GenerationConfig.from_pretrained(folder.path)
    result.name_or_path = folder.path
    return result.eval()


def _config(transformers: Any, folder: Path) -> Any:
    """The packed model's own, whose type the folder names beside one that makes other programs refuse it."""
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    own = values.pop("packed_model_type", None)
    if own is None:  # written by an earlier version
        return transformers.AutoConfig.from_pretrained(folder)
    values.pop("model_type")
    return transformers.AutoConfig.for_model(own, **values)


@contextlib.contextmanager
def _parameters_without_memory() -> Iterator[None]:
    """Modules that are made have their parameters on the device "meta"; buffers, which no file has, are real."""
    from torch import nn

    register = nn.Module.register_parameter

    def on_meta(module: Any, name: str, parameter: Any) -> None:
        register(module, name, parameter)
        if parameter is not None:
            kept = module._parameters[name]
            module._parameters[name] = nn.Parameter(kept.to("meta"), requires_grad=kept.requires_grad)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign, assignment, unused-ignore]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign, unused-ignore]


class _Loader:
    """Puts the folder's tensors into a model without memory."""

    def __init__(self, folder: _swiftprune.PackedFolder, model: Any, dtype: torch.dtype, bf16_products: bool) -> None:
        self.folder, self.model, self.dtype, self.bf16_products = folder, model, dtype, bf16_products
        self.tensors = {tensor.name: tensor for tensor in folder.tensors()}
        self.tied: Optional[str] = None  # the output projection, where it is the embedding

    def load(self) -> None:
        head = self.model.get_output_embeddings()
        names = {id(module): name for name, module in self.model.named_modules()}
        head_name = names.get(id(head)) if head is not None else None
        embedding_name = names[id(self.model.get_input_embeddings())]
        if head_name is not None and not self._has(head_name) and self._ties():
            self.tied = head_name
        for name in list(self.tensors):
            if name.endswith(_SUFFIX):
                self._put_packed(name)
        if head_name is not None:
            self._put_head(head_name, embedding_name)
        self._put_rest()
        if self.tied is not None and not self._is_ours(self.tied):
            self.model.get_output_embeddings().weight = self.model.get_input_embeddings().weight
        left = [name for name, parameter in self.model.named_parameters() if parameter.is_meta]
        if left:
            raise InputError(f"{self.folder.path}: found no tensor {left[0]}, which transformers' "
                             f"{type(self.model).__name__} needs ({len(left)} are missing)")

    def _has(self, module: str) -> bool:
        return f"{module}.weight" in self.tensors or module + _SUFFIX in self.tensors

    def _ties(self) -> bool:
        config = self.model.config
        return bool(config.get_text_config().tie_word_embeddings or config.tie_word_embeddings)

    def _is_ours(self, module: str) -> bool:
        from .torch_modules import PackedLinear

        return isinstance(self.model.get_submodule(module), PackedLinear)

    def _put_packed(self, name: str) -> None:
        from torch import nn
        from transformers.pytorch_utils import Conv1D  # type: ignore[import-not-found, unused-ignore]

        from .torch_modules import PackedEmbedding

        path = name[:-len(_SUFFIX)]
        try:
            module = self.model.get_submodule(path)
        except AttributeError:
            module = None
        packed = self.folder.bytes(name)
        if isinstance(module, (nn.Linear, Conv1D)):
            self._put_linear(path, packed)
        elif type(module) is nn.Embedding:
            self._put(path, PackedEmbedding(packed, self.dtype))
            if self.tied is not None:
                self._put_linear(self.tied, packed)
        else:
            found = "none" if module is None else type(module).__name__
            raise InputError(f"{self.folder.path}: tensor {name}: found {found} in transformers' "
                             f"{type(self.model).__name__}, expected a linear or an embedding of that name; models "
                             "with experts run in swiftprune.load and swiftprune serve")

    def _put_head(self, head_name: str, embedding_name: str) -> None:
        from torch import nn

        if type(self.model.get_submodule(head_name)) is not nn.Linear:
            return
        name = f"{embedding_name if self.tied is not None else head_name}.weight"
        packed = self.folder.packed_copy(name) if name in self.tensors else None
        if packed is not None:
            self._put_linear(head_name, packed, persistent=False)
            if self.tied is None:
                del self.tensors[name]

    def _put_linear(self, path: str, packed: Any, *, persistent: bool = True) -> None:
        from .torch_modules import PackedLinear

        bias = self.model.get_submodule(path).bias
        self._put(path, PackedLinear(packed, bias, bf16_products=self.bf16_products, persistent=persistent))

    def _put(self, path: str, module: Any) -> None:
        parent, _, child = path.rpartition(".")
        setattr(self.model.get_submodule(parent) if parent else self.model, child, module)

    def _put_rest(self) -> None:
        state: Dict[str, Any] = {}
        known = self.model.state_dict()
        strange = []
        for name, tensor in self.tensors.items():
            if name.endswith(_SUFFIX):
                continue
            if name in known:
                state[name] = self._dense(tensor)
            else:
                strange.append(name)
        if strange:
            warnings.warn(f"{self.folder.path}: {len(strange)} tensors are not used by transformers' "
                          f"{type(self.model).__name__}, {strange[0]} among them", Note, stacklevel=5)
        self.model.load_state_dict(state, strict=False, assign=True)

    def _dense(self, tensor: Any) -> Any:
        """A copy in the model's dtype."""
        import torch

        kinds = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "BOOL": torch.bool,
                 "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64}
        if tensor.dtype not in kinds:
            raise InputError(f"{self.folder.path}: tensor {tensor.name}: found {tensor.dtype}, expected a dtype that "
                             "torch has")
        kind = kinds[tensor.dtype]
        values = self.folder.bytes(tensor.name).view(kind).view(tensor.shape)
        if tensor.transposed:
            values = values.t()
        values = values.to(self.dtype if kind.is_floating_point else kind, copy=True).contiguous()
        self.folder.release(tensor.name)
        return values
