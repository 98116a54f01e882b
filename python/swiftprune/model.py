"""A model that is kept open and writes."""

from __future__ import annotations

import json
import numbers
import operator
import os
import random
import warnings
from dataclasses import dataclass
from typing import Any, Callable, Iterator, List, Mapping, Optional, Sequence, Union

from . import _swiftprune
from .errors import Note, UsageError, is_text

#: A text to continue, or a conversation: dicts with "role" and "content", as OpenAI's API has them.
Prompt = Union[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Generation:
    """What a model wrote; str() of it is the text."""

    text: str
    #: "eos": the model ended it; "length": max_tokens.
    stop: str
    #: Tokens written, and of the prompt.
    num_tokens: int
    prompt_tokens: int
    #: Seconds that the prompt and the tokens took.
    prefill_seconds: float
    decode_seconds: float

    def __str__(self) -> str:
        return self.text


class Stream(Iterator[str]):
    """The pieces of a text while it is written. It ends when its model begins another text."""

    def __init__(self, pieces: _swiftprune.Pieces) -> None:
        self._pieces = pieces
        self._text: List[str] = []

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> str:
        # A token that ends inside a character adds nothing yet.
        while (piece := self._pieces.next()) is not None:
            if piece:
                self._text.append(piece)
                return piece
        raise StopIteration

    def generation(self) -> Generation:
        """What was written until now."""
        pieces = self._pieces
        return Generation("".join(self._text), pieces.stop, pieces.num_tokens, pieces.prompt_tokens,
                          pieces.prefill_seconds, pieces.decode_seconds)


class Model:
    """A model of `load`. Threads may share it; it writes one text at a time."""

    def __init__(self, writer: _swiftprune.Writer) -> None:
        self._writer = writer

    @property
    def name(self) -> str:
        """What people call it: the folder's name, or the id's last part."""
        return self._writer.name

    @property
    def folder(self) -> str:
        return self._writer.folder

    @property
    def device(self) -> str:
        return self._writer.device

    @property
    def max_positions(self) -> int:
        """Tokens of prompt and answer together at most."""
        return self._writer.max_positions

    @property
    def can_chat(self) -> bool:
        """Whether the folder has a chat template."""
        return self._writer.can_chat

    def encode(self, text: str, *, add_special: bool = True) -> List[int]:
        """Token ids of a text; add_special: with what the tokenizer puts around a text (BOS, EOS)."""
        _check_text("text", text)
        return self._writer.encode(text, add_special)

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """The text of token ids; skip_special: without tokens such as EOS."""
        try:
            whole = [operator.index(one) for one in ids]
        except TypeError as error:
            raise UsageError(f"ids: expected ints; {error}") from None
        return self._writer.decode(whole, skip_special)

    def stream(self, prompt: Prompt, *, max_tokens: int = 128, temperature: float = 0.0, top_p: float = 1.0,
               top_k: int = 0, min_p: float = 0.0, seed: Optional[int] = None, **template: Any) -> Stream:
        """Writes piece by piece.

        Args:
            prompt: a text to continue, or a conversation (a list of {"role": ..., "content": ...}), which the
                model's chat template writes.
            max_tokens: tokens at most.
            temperature: 0: always the likeliest token.
            top_p, top_k, min_p: which tokens may be drawn: the likeliest that hold top_p of the probability, so many
                of the likeliest (0: all), those with min_p of the likeliest one's probability.
            seed: of the draws; None: another one each time.
            template: for conversations: tools, documents, chat_template_kwargs, continue_final_message, as in
                docs/serving.md.
        Raises:
            UsageError: more positions than the model has, values out of range.
            InputError: a conversation that the template refuses, or no template.
        """
        _check_range("max_tokens", max_tokens, 1, 1 << 24)
        _check_range("temperature", temperature, 0.0, 100.0)
        _check_range("top_p", top_p, 1e-6, 1.0)
        _check_range("top_k", top_k, 0, 1 << 31)
        _check_range("min_p", min_p, 0.0, 1.0)
        if seed is None:
            seed = random.getrandbits(64)
        _check_range("seed", seed, 0, (1 << 64) - 1)
        _check_template(template)
        if isinstance(prompt, str):
            _check_text("prompt", prompt)
            if template:
                raise UsageError(f"{', '.join(template)}: only with a conversation")
            ids = self._writer.prompt(prompt)
        else:
            ids = self._writer.chat_prompt(_body(prompt, template))
        return Stream(_swiftprune.Pieces(self._writer, ids, int(max_tokens), float(temperature), float(top_p), int(top_k),
                                         float(min_p), int(seed)))

    def generate(self, prompt: Prompt, *, on_text: Optional[Callable[[str], Any]] = None,
                 **options: Any) -> Generation:
        """Writes to the end. on_text is called with every piece; options are those of `stream`."""
        stream = self.stream(prompt, **options)
        for piece in stream:
            if on_text is not None:
                on_text(piece)
        return stream.generation()

    def __repr__(self) -> str:
        return f"<swiftprune.Model {self.name} on {self.device}>"


def _check_range(name: str, value: Any, low: float, high: float) -> None:
    whole = isinstance(low, int)
    if isinstance(value, bool) or not isinstance(value, numbers.Integral if whole else numbers.Real):
        raise UsageError(f"{name}: found {value!r}, expected {'an int' if whole else 'a number'}")
    if not low <= value <= high:
        raise UsageError(f"{name}: found {value}, expected {low} to {high}")


def _check_text(name: str, value: Any) -> None:
    if not is_text(value):
        raise UsageError(f"{name}: found {value!r}, expected text")


_TEMPLATE = ("tools", "documents", "chat_template_kwargs", "continue_final_message", "add_generation_prompt")
_DRAWING = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "seed")


def _check_template(template: Mapping[str, Any]) -> None:
    for name in template:
        if name not in _TEMPLATE:
            raise UsageError(f"{name}: found no such option, expected one of {', '.join(_DRAWING + _TEMPLATE)}")


def _body(messages: Sequence[Mapping[str, Any]], template: Mapping[str, Any]) -> str:
    try:
        return json.dumps({"messages": [dict(message) for message in messages], **template})
    except (TypeError, ValueError) as error:
        raise UsageError(f"prompt: found {type(messages).__name__}, expected a text or a list of messages; "
                         f"{error}") from None


def load(model: Union[str, os.PathLike[str]], *, device: str = "auto", compute: str = "auto", prompt_copies: bool = False,
         threads: int = 0) -> Model:
    """Opens a model that writes: its weights are loaded by the first text.

    Args:
        model: a Hugging Face folder, dense, pruned or packed, or the id of a model in Hugging Face's cache.
        device: "cpu", "cuda", "cuda:1", or "auto": a GPU where there is one.
        compute: "f32", "bf16", or "auto": bf16 where the device has it.
        prompt_copies: on a GPU keep second copies of packed weights for long prompts: faster, but more memory than
            the dense model takes.
        threads: 0: one per core.
    """
    if not isinstance(model, (str, os.PathLike)):
        raise UsageError(f"model: found {model!r}, expected a folder or an id")
    _check_text("model", os.fspath(model))
    _check_text("device", device)
    if compute not in ("auto", "f32", "bf16"):
        raise UsageError(f"compute: found {compute!r}, expected auto, f32 or bf16")
    _check_range("threads", threads, 0, 4096)
    writer = _swiftprune.Writer(os.fspath(model), device, compute, prompt_copies, int(threads))
    for note in writer.notes:
        warnings.warn(note, Note, stacklevel=2)
    return Model(writer)
