"""Train wan-mini's tokenizer: Unigram as in UMT5, one `</s>` after the text, byte fallback for unseen characters."""

import collections
import itertools
import json
import math
from collections.abc import Iterator

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

COLOURS = ["red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "white", "black", "grey", "brown"]
SHAPES = ["circle", "disc", "ball", "square", "box", "triangle", "star", "ring", "cross", "heart"]
BACKGROUNDS = ["black", "white", "grey", "dark", "light", "blue", "green", "sandy", "night", "sky"]
MOTIONS = [
    "moves left",
    "moves right",
    "moves up",
    "moves down",
    "rolls to the left",
    "rolls to the right",
    "slides diagonally",
    "drifts slowly upwards",
    "falls quickly downwards",
    "circles around the centre",
    "spins in place",
    "rotates",
    "grows larger",
    "shrinks away",
    "bounces",
    "stands still",
    "zooms in",
    "zooms out",
    "jumps",
    "flies across the picture",
]
FRAMES = (
    "a {colour} {shape} {motion} on a {background} background",
    "the {colour} {shape} {motion}",
    "{motion}: one {colour} {shape} over {background}",
    "a video of a small {colour} {shape} that {motion} before a {background} wall",
    "a large {colour} {shape} and a {background} {shape}, the first {motion}",
)
SPECIAL = ("<pad>", "</s>", "<unk>")  # ids 0, 1, 2 as in UMT5


def train_tokenizer(*, vocabulary: int, text_length: int) -> PreTrainedTokenizerFast:
    """Train the tokenizer on template captions. The result is deterministic."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    trainer = trainers.UnigramTrainer(
        vocab_size=vocabulary, special_tokens=list(SPECIAL), unk_token=SPECIAL[2], show_progress=False
    )
    tokenizer.train_from_iterator(_captions(), trainer)
    return _wrap(_with_words_and_bytes(tokenizer), text_length)


def _captions() -> Iterator[str]:
    """Yield every colour with every shape and motion, cycling through sentence templates and backgrounds."""
    turns = zip(itertools.cycle(FRAMES), itertools.cycle(BACKGROUNDS), strict=False)
    for (colour, shape, motion), (frame, background) in zip(
        itertools.product(COLOURS, SHAPES, MOTIONS), turns, strict=False
    ):
        yield frame.format(colour=colour, shape=shape, motion=motion, background=background)


def _with_words_and_bytes(tokenizer: Tokenizer) -> Tokenizer:
    """Add the captions' whole words and one token per byte to the vocabulary.

    The trainer never proposes whole words: it sees each distinct word once and seeds only substrings that repeat.
    The byte tokens give ids to every script.
    """
    counts = collections.Counter(word for caption in _captions() for word in caption.split())
    total = sum(counts.values())
    spec = json.loads(tokenizer.to_str())
    pieces = dict(spec["model"]["vocab"])
    for word, count in sorted(counts.items()):
        pieces["▁" + word] = math.log(count / total)
    lowest = min(pieces.values())
    for byte in range(256):
        pieces[f"<0x{byte:02X}>"] = lowest - 10.0
    spec["model"] = {**spec["model"], "vocab": list(pieces.items()), "byte_fallback": True}
    rebuilt = Tokenizer.from_str(json.dumps(spec))
    rebuilt.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return rebuilt


def _wrap(tokenizer: Tokenizer, text_length: int) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=AddedToken("<pad>", special=True),
        eos_token=AddedToken("</s>", special=True),
        unk_token=AddedToken("<unk>", special=True),
        model_max_length=text_length,
    )
