"""A tokenizer with one token per character, enough for arithmetic, in the format every library reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"
CHARACTERS = "0123456789+-*/=()., "

PAD_ID, BOS_ID, EOS_ID = 0, 1, 2


def vocabulary() -> dict[str, int]:
    """Token ids; the special tokens come first."""
    return {token: i for i, token in enumerate((PAD, BOS, EOS, UNKNOWN, *CHARACTERS))}


def make_tokenizer(max_length: int = 512) -> PreTrainedTokenizerFast:
    """Tokenizer that puts ``<bos>`` before every text and no chat template around it.

    Args:
        max_length: Longest text of the model it is for, in tokens.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(vocabulary(), unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
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
