"""Small tokenizers of every kind of decoder, all made in memory."""

from __future__ import annotations

import functools

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "the √ of 2 ≤ 3 ÷ 4, then the sum of it",
    "日本語 and 語 of 日本 语言",
    "hello 🙂 world 👩‍👩‍👧 hello, don't",
    "def f(x):\n    return x\n\n\tpass",
] * 5
SPECIAL = ["<pad>", "<|end of turn|>"]
WORDS = ["▁", "▁the", "▁of", "▁hello", "▁▁", "▁b", "a", "e", "h", "l", "o", "lo", "he", ".", ","]


def _wrapped(core: Tokenizer, **options) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=core, **options)


@functools.cache
def byte_level(vocabulary: int = 330) -> PreTrainedTokenizerFast:
    """Byte-level BPE as of GPT-2, Qwen and Llama 3; a special token has spaces in its name."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            initial_alphabet=alphabet,
            special_tokens=SPECIAL,
            show_progress=False,
        ),
    )
    return _wrapped(core, pad_token="<pad>", eos_token=SPECIAL[1])


@functools.cache
def byte_fallback(strips: bool = True) -> PreTrainedTokenizerFast:
    """SentencePiece-like BPE with byte tokens, as of Llama 2 and Mistral, or of Gemma."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *WORDS]
    vocabulary = {name: place for place, name in enumerate(names)}
    merges = [("l", "o"), ("h", "e")]
    core = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    core.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strips else steps)
    return _wrapped(core, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@functools.cache
def metaspace() -> PreTrainedTokenizerFast:
    """Unigram with Metaspace, as of T5."""
    core = Tokenizer(models.Unigram([("<unk>", 0.0), *((word, -1.0) for word in WORDS)], 0, False))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    return _wrapped(core, unk_token="<unk>")


@functools.cache
def word_level(tidies: bool = False) -> PreTrainedTokenizerFast:
    """Whole words and no decoder: tokens are joined by spaces."""
    words = ["<unk>", "don", "n't", "'", "s", ".", ",", "two", "語", "a b", " "]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    return _wrapped(core, unk_token="<unk>", clean_up_tokenization_spaces=tidies)


@functools.cache
def word_piece() -> PreTrainedTokenizerFast:
    """As of BERT."""
    words = ["[UNK]", "play", "##ing", "##ed", "it", "'", "s", "don", "n't", "##語", "語", "."]
    vocabulary = {word: i for i, word in enumerate(words)}
    core = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    core.decoder = decoders.WordPiece()
    return _wrapped(core, unk_token="[UNK]")


@functools.cache
def ctc() -> PreTrainedTokenizerFast:
    """A decoder whose text is no sum of texts: repeated tokens are one."""
    words = ["<pad>", "|", "a", "b", "ab", "語"]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<pad>"))
    core.decoder = decoders.CTC("<pad>", "|")
    return _wrapped(core, pad_token="<pad>")


class Unspelt:
    """A tokenizer with a decoder of its own: bytes, and names that do not spell them."""

    def __init__(self, names_are_bytes: bool = False):
        self.parts = [bytes([byte]) for byte in range(256)]
        self.parts += [part.encode() for part in ("the", " of", "語 ", " √", "", "🙂")]
        self.names_are_bytes = names_are_bytes

    def __len__(self):
        return len(self.parts)

    def convert_ids_to_tokens(self, ids):
        return [self.parts[token] if self.names_are_bytes else f"t{token}" for token in ids]

    def decode(self, ids):
        return b"".join(self.parts[token] for token in ids).decode(errors="replace")

    def batch_decode(self, rows):
        return [self.decode(ids) for ids in rows]

    def encode(self, text):
        return list(text.encode())


class Backwards(Unspelt):
    """Writes the last token first: no part of the ids gives a part of the text that begins it."""

    def decode(self, ids):
        return "".join(chr(0x100 + token) for token in reversed(ids))


TOKENIZERS = {
    "byte-level": byte_level,
    "byte fallback": byte_fallback,
    "byte fallback, nothing stripped": lambda: byte_fallback(strips=False),
    "metaspace": metaspace,
    "word-level": word_level,
    "word-level, tidied": lambda: word_level(tidies=True),
    "word-piece": word_piece,
    "ctc": ctc,
    "names without a meaning": Unspelt,
    "backwards": Backwards,
    "names that are bytes": lambda: Unspelt(names_are_bytes=True),
}
