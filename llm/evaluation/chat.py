"""``r2vpo llm chat``: talk to a trained model in the form that it was trained in, each answer as it is written."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from r2vpo.llm.evaluation.target import find_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class ChatCommand:
    """Talk to a model. A line is a message, an empty one begins a new conversation, and the end of the input ends it.

    Messages are put as in training: into the run's template and after its system prompt. A model without a chat
    template has no conversation, and each message stands alone.
    """

    model: Annotated[str, tyro.conf.Positional]
    """Run directory, directory with a model, or a name."""
    prompt: str | None = None
    """One message; the answer is printed, and that is all."""
    system_prompt: str | None = None
    """In the place of the run's."""
    temperature: float = 0.0
    """0 takes the likeliest token each time; higher samples more freely."""
    max_tokens: int = 512
    """Of an answer."""
    seed: int = 0
    """Of the sampling."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    command = tyro.cli(ChatCommand, args=list(arguments), prog="r2vpo llm chat")
    found = find_model(command.model)
    import torch

    from r2vpo.llm.models.loading import load_model, load_tokenizer
    from r2vpo.validation import Count, NonNegative, checked

    checked("temperature", command.temperature, NonNegative)
    checked("max_tokens", command.max_tokens, Count)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = load_tokenizer(found.source, trust_remote_code=command.trust_remote_code)
    model = load_model(found.source, trust_remote_code=command.trust_remote_code).to(device).eval()
    torch.manual_seed(command.seed)
    system_prompt = command.system_prompt or found.run_config.get("system_prompt")
    talk = Conversation(model, tokenizer, system_prompt, found.run_config.get("prompt_template"))
    for message in [command.prompt] if command.prompt is not None else _messages():
        if message:
            talk.answer(message, command.temperature, command.max_tokens)
        else:
            talk.messages.clear()
    return 0


def _messages() -> Iterator[str]:
    while True:
        if sys.stdin.isatty():
            print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        yield line.strip()


class Conversation:
    """What was said so far, in the form that the model was trained in.

    Args:
        model: Answers.
        tokenizer: Of the model.
        system_prompt: First message, where there is one.
        template: Put around each message of the user's, in the place of ``{prompt}``.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        system_prompt: str | None = None,
        template: str | None = None,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.system_prompt, self.template = system_prompt, template
        self.messages: list[dict[str, Any]] = []

    def answer(self, message: str, temperature: float = 0.0, max_tokens: int = 512) -> str:
        """Print the answer to a message as it is written, and return it.

        Raises:
            ConfigError: The chat template refuses the conversation.
        """
        import torch
        from transformers import TextStreamer

        from r2vpo.llm.data.prompts import format_prompt

        text = message if self.template is None else self.template.replace("{prompt}", message)
        self.messages.append({"role": "user", "content": text})
        has_template = bool(getattr(self.tokenizer, "chat_template", None))
        prompt = format_prompt(self.messages if has_template else text, self.tokenizer, self.system_prompt)
        tokens = torch.tensor([prompt], device=self.model.device)
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
        with torch.inference_mode():
            output: Any = self.model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=max_tokens,
                pad_token_id=self.tokenizer.pad_token_id,
                streamer=TextStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True),
                **sampling,
            )
        said = str(self.tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True))
        self.messages.append({"role": "assistant", "content": said})
        return said
