"""A tokenizer with one token per character, in the format every library reads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"
CHARACTERS = "0123456789+-*/=()., "
"""Enough for arithmetic."""
ASCII = "".join(map(chr, range(32, 127))) + "\n"
"""Enough for most of reasoning-gym."""

PAD_ID, BOS_ID, EOS_ID = 0, 1, 2


def vocabulary(characters: str = CHARACTERS, phrases: Sequence[str] = ()) -> dict[str, int]:
    """Token ids; the special tokens come first."""
    return {token: i for i, token in enumerate((PAD, BOS, EOS, UNKNOWN, *characters, *phrases))}


def make_tokenizer(
    max_length: int = 512, characters: str = CHARACTERS, phrases: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """Tokenizer that puts ``<bos>`` before every text and no chat template around it.

    Args:
        max_length: Longest text of the model it is for, in tokens.
        characters: Each is a token; any other is unknown.
        phrases: Longer texts that are one token each, such as an instruction that all problems of a task share.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(vocabulary(characters, phrases), unk_token=UNKNOWN))
    newline = ["\n"] if "\n" in characters else []  # which a dot does not match
    pattern = "|".join([*map(re.escape, phrases), *newline, "."])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, BOS_ID)]
    )
    # Without a decoder the tokens of a text would come back with spaces between them.
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
