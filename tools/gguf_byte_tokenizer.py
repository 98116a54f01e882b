"""The tokenizer of the tiny GGUF files that make_gguf_fixtures.py and make_gguf_hybrid_fixtures.py write."""
import gguf
from transformers.convert_slow_tokenizer import bytes_to_unicode

VOCAB = 270


def byte_tokenizer(writer, pre):
    """256 bytes, some merges, three special tokens."""
    letters = bytes_to_unicode()
    tokens = [letters[b] for b in range(256)]
    merges = ["h e", "l l", "he ll", "Ġ w", "o r", "Ġw or", "Ġwor l"]
    tokens += [m.replace(" ", "") for m in merges]
    types = [gguf.TokenType.NORMAL] * len(tokens)
    tokens += ["<|start|>", "<|end|>", "<tag>", "[PAD266]", "[PAD267]", "[PAD268]", "[PAD269]"]
    types += [gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.USER_DEFINED] + [gguf.TokenType.UNUSED] * 4
    assert len(tokens) == VOCAB
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(263)
    writer.add_eos_token_id(264)
    writer.add_pad_token_id(264)
