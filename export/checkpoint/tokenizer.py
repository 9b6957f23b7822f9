"""Checkpoint tokenizer: check it against the text encoder, and save it as the `tokenizer.json` that serving reads."""

from pathlib import Path

from tokenizers import Tokenizer

from export.checkpoint.config_file import DOWNLOAD, CheckpointError, ConfigFile, read_object, read_text
from wan_t2v.facts import TOKENIZER_FILE

_PROBE = "a cat"


def check_tokenizer(folder: Path) -> None:
    """Refuse a tokenizer that cannot be read or does not fit the text encoder. Raises CheckpointError."""
    path = folder / "tokenizer" / TOKENIZER_FILE
    if not path.exists() and not path.is_symlink():
        raise CheckpointError(_without_file(path))
    read_object(path)
    try:
        tokenizer = Tokenizer.from_str(read_text(path))
    except Exception as error:  # the library raises no narrower type
        raise CheckpointError(f"{path} is no tokenizer ({error}). Download it again.") from None
    config = ConfigFile.open(folder / "text_encoder/config.json")
    vocabulary, end = config.integer("vocab_size"), config.integer("eos_token_id", least=0, default=1)
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if not 0 <= largest < vocabulary:
        raise CheckpointError(
            f"{path} has token ids up to {largest}, and the text encoder's vocab_size is {vocabulary}. "
            "Take tokenizer and text encoder from one checkpoint."
        )
    ids = tokenizer.encode(_PROBE).ids
    if len(ids) < 2 or ids[-1] != end:
        raise CheckpointError(
            f"{path} turns {_PROBE!r} into {ids}, and the text encoder expects its end token {end} last. "
            "Take tokenizer and text encoder from one checkpoint."
        )


def save_tokenizer(folder: Path, target: Path) -> None:
    """Write the checkpoint's tokenizer as one `tokenizer.json` to `target`. Raises CheckpointError."""
    from transformers import AutoTokenizer  # takes seconds to import; cheaper checks report a bad file before

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    except (ValueError, OSError, ImportError, TypeError, KeyError, AttributeError) as error:
        # raised by transformers for a config that it does not know, and by its code for values of wrong types
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise CheckpointError(f"{folder / 'tokenizer'} cannot be loaded: {reason}. Download it again.") from None
    tokenizer.backend_tokenizer.save(str(target))


def _without_file(path: Path) -> str:
    others = sorted(file.name for file in path.parent.glob("*")) if path.parent.is_dir() else []
    if not others:
        return f"{path} is missing. Download the folder `tokenizer` of the checkpoint: `{DOWNLOAD}`."
    return (
        f"{path} is missing (found: {', '.join(others)}). Serving reads that one file. Make it from the others: "
        f"`python -c \"from transformers import AutoTokenizer as T; T.from_pretrained('{path.parent}')"
        f".save_pretrained('{path.parent}')\"`, or download it: `{DOWNLOAD}`."
    )
