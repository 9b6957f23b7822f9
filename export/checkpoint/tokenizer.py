"""Checkpoint tokenizer: check its `tokenizer.json` against the text encoder, and save it for serving."""

from pathlib import Path

from tokenizers import Tokenizer

from export.checkpoint.config_file import DOWNLOAD, CheckpointError, ConfigFile, read_object, read_text
from wan_t2v.facts import TOKENIZER_FILE

_PROBE = "a cat"


def check_tokenizer(folder: Path) -> None:
    """Refuse a tokenizer that cannot be read or does not fit the text encoder. Raises CheckpointError."""
    _checked_text(folder)


def save_tokenizer(folder: Path, target: Path) -> None:
    """Check the checkpoint's tokenizer and write the same text to `target`. Raises CheckpointError.

    transformers' `AutoTokenizer` is not asked. By `tokenizer_config.json` it takes another file, adds tokens that the
    text encoder does not have, runs the checkpoint's code, or makes a tokenizer anew that splits texts otherwise: its
    version 5 does so for T5, the class of the published tokenizer, whose authors used the file as it is.
    """
    target.write_text(_checked_text(folder), encoding="utf-8", newline="")


def _checked_text(folder: Path) -> str:
    path = folder / "tokenizer" / TOKENIZER_FILE
    if not path.exists() and not path.is_symlink():
        raise CheckpointError(_without_file(path))
    read_object(path)
    text = read_text(path)
    known, ids = _known_and_probe_ids(path, text)
    config = ConfigFile.open(folder / "text_encoder/config.json")
    vocabulary, end = config.integer("vocab_size"), config.integer("eos_token_id", least=0, default=1)
    largest = max(known | set(ids), default=-1)
    if not 0 <= largest < vocabulary:
        raise CheckpointError(
            f"{path} has token ids up to {largest}, and the text encoder's vocab_size is {vocabulary}. "
            "Take tokenizer and text encoder from one checkpoint."
        )
    if len(ids) < 2 or ids[-1] != end:
        raise CheckpointError(
            f"{path} turns {_PROBE!r} into {ids}, and the text encoder expects its end token {end} last. "
            "Take tokenizer and text encoder from one checkpoint."
        )
    return text


def _known_and_probe_ids(path: Path, text: str) -> tuple[set[int], list[int]]:
    """Return the ids of all tokens, and those of a short text. Raises CheckpointError."""
    try:
        tokenizer = Tokenizer.from_str(text)
        tokenizer.no_padding()  # serving pads and truncates by itself
        tokenizer.no_truncation()
        return set(tokenizer.get_vocab(with_added_tokens=True).values()), tokenizer.encode(_PROBE).ids
    except Exception as error:  # the library raises no narrower type
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise CheckpointError(f"{path} is no tokenizer ({reason}). Download it again.") from None


def _without_file(path: Path) -> str:
    others = sorted(file.name for file in path.parent.glob("*")) if path.parent.is_dir() else []
    if not others:
        return f"{path} is missing. Download the folder `tokenizer` of the checkpoint: `{DOWNLOAD}`."
    return (
        f"{path} is missing (found: {', '.join(others)}). Serving reads that one file. Make it from the others: "
        f"`python -c \"from transformers import AutoTokenizer as T; T.from_pretrained('{path.parent}')"
        f".save_pretrained('{path.parent}')\"`, or download it: `{DOWNLOAD}`."
    )
