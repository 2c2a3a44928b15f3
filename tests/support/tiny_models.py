"""Tiny random models and a tiny tokenizer, made in code: nothing is downloaded."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch

VOCABULARY = 64
SPECIAL_TOKENS = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"}
CHARACTERS = string.digits + "+-*/=?.,:() \n" + "abcdefghijklmnopqrstuvwxyz"


def tiny_model(tied: bool = False, seed: int = 0, scale: float = 0.3, **settings: Any):
    """Random Qwen2 (vocabulary 64, hidden 32, 2 layers); ``scale`` spreads its weights so that logits differ."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": tied,
        "initializer_range": scale,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(Qwen2Config(**{**sizes, **settings}))


def tiny_tokenizer(eos: bool = True, pad: bool = True):
    """One token a character; at most 64 ids, with ``<pad>`` 0, ``<eos>`` 1, ``<bos>`` 2 and ``<unk>`` 3."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "<eos>", "<bos>", "<unk>", *CHARACTERS]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    special = {k: v for k, v in SPECIAL_TOKENS.items() if (k != "eos_token" or eos) and (k != "pad_token" or pad)}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", model_max_length=128, padding_side="left", **special
    )


def lora(model, scale: float = 0.0, **settings: Any):
    """The model with a LoRA adapter of rank 4; ``scale`` spreads what is 0 at first, so that the adapter shows."""
    import peft

    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, **{"target_modules": "all-linear", **settings}))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if scale and "lora_B" in name:
                parameter.normal_(std=scale)
    return adapted


def save_tiny(directory: Path, tied: bool = False, eos: bool = True, pad: bool = True, **settings: Any) -> Path:
    """Model and tokenizer in a directory that ``from_pretrained`` and vLLM read."""
    tiny_model(tied, **settings).save_pretrained(directory)
    tiny_tokenizer(eos, pad).save_pretrained(directory)
    return directory


def random_batch(
    lengths: list[tuple[int, int]] | None = None, seed: int = 0, vocabulary: int = VOCABULARY, pad: int = 0
) -> dict[str, torch.Tensor]:
    """Right-padded batch of random prompts and completions; ``lengths`` holds (prompt, completion) tokens of each."""
    lengths = lengths or [(5, 7), (2, 3), (9, 6)]
    width = max(prompt + completion for prompt, completion in lengths)
    generator = torch.Generator().manual_seed(seed)
    batch = {
        "input_ids": torch.full((len(lengths), width), pad),
        "attention_mask": torch.zeros(len(lengths), width, dtype=torch.long),
        "completion_mask": torch.zeros(len(lengths), width, dtype=torch.bool),
    }
    for row, (prompt, completion) in enumerate(lengths):
        end = prompt + completion
        batch["input_ids"][row, :end] = torch.randint(3, vocabulary, (end,), generator=generator)
        batch["attention_mask"][row, :end] = 1
        batch["completion_mask"][row, prompt:end] = True
    return batch
