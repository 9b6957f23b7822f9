"""Which expert a LoRA is for, as its file name says it: `high_noise`, `HighNoise`, `lownoise`, `-HIGH-`.

Standard library only.
"""

import re
from collections.abc import Iterator
from pathlib import Path

_RUN = re.compile(r"[A-Za-z0-9]+")
_WORD = re.compile(  # HIGHNoise_v2 -> HIGH, Noise, v, 2; also LOWnoise -> LOW, noise; T2VLOW -> T2V, LOW
    r"(?:HIGH|HI|LOW|LO)(?=noise)|(?:[TI]2V|[ti]2v)|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+"
)
# Nouns that make another word with `high` or `low`, as in low_poly. Any other may describe the file: high_rank128.
_COMPOUND = "res|resolution|definition|quality|fidelity|poly|key"
# Within one run of letters most nouns make another word, as in HighContrast. These describe the file.
_DESCRIBES = "noise|lora|wan|[ti]2v|v|rank|steps?|epoch|fp|bf|model|expert|high|low|[0-9]+"
_BARE = {word: re.compile(rf"\b{word}(?= (?!({_COMPOUND})\b)|\+({_DESCRIBES})\b|$)") for word in ("high", "low")}
_NOISE = {
    word: re.compile(rf"\b({word}|{short}|{word}[ +](and[ +])?{other})[ +]?noise")
    for word, short, other in (("high", "hi", "low"), ("low", "lo", "high"))
}
# Names that programs give to every LoRA, so that only their folder can say which it is.
_TYPE = r"b?f(p|loat)?(8|16|32)|rank[-_]?[0-9]+"
_FIXED_NAME = re.compile(
    r"(adapter_model|(pytorch_)?lora(_weights)?|(diffusion_pytorch_)?model|(checkpoint|step|epoch)[-_]?[0-9]+)"
    rf"([-_.]({_TYPE}))*",
    re.I,
)


def expert_by_name(path: Path) -> str | None:
    """Return `high` or `low` if the file's name says one of them. None if it says neither or both.

    A word with `noise` counts before one without. For a name that a program gave, such as `adapter_model.safetensors`,
    its folder's name counts too, if it has such a word with `noise` or ends in one.
    """
    stem, *folders = map(_words, _names(path))
    texts = (stem, *(folder if _has_noise(folder) else folder.rpartition(" ")[2] for folder in folders))
    for patterns in (_NOISE, _BARE):
        spelt = [word for word, pattern in patterns.items() if any(map(pattern.search, texts))]
        if spelt:
            return spelt[0] if len(spelt) == 1 else None
    return None


def _names(path: Path) -> Iterator[str]:
    """Yield the file's stem, and the folders above it as long as the name below is a fixed one."""
    for name in (path.stem, *(folder.name for folder in path.absolute().parents)):
        yield name
        if not _FIXED_NAME.fullmatch(name):
            return


def _has_noise(words: str) -> bool:
    return any(pattern.search(words) for pattern in _NOISE.values())


def _words(name: str) -> str:
    """Return the words of a name in lower case: those of one run of letters and digits joined by `+`."""
    return " ".join("+".join(_WORD.findall(run)) for run in _RUN.findall(name)).lower()
