"""Talking to a model: in the form of training, message by message."""

import io

import pytest
from tiny_models import tiny_model, tiny_tokenizer

from r2vpo.cli import main
from r2vpo.llm.data.prompts import format_prompt
from r2vpo.llm.evaluation.chat import Conversation

TEMPLATE = "{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }}\n{% endfor %}a:"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("chat") / "model"
    tiny_model().save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def continuation(model, tokenizer, prompt, count):
    """The likeliest tokens, one after the other, as text."""
    import torch

    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
        if tokens[-1] == tokenizer.eos_token_id:
            break
    return tokenizer.decode(tokens[len(prompt) :], skip_special_tokens=True)


def test_one_message_is_answered_by_the_likeliest_tokens(folder, capsys):
    assert main(["llm", "chat", str(folder), "--prompt", "1+2=", "--max-tokens", "6"]) == 0
    wanted = continuation(tiny_model().eval(), tiny_tokenizer(), format_prompt("1+2=", tiny_tokenizer()), 6)
    assert capsys.readouterr().out.rstrip("\n") == wanted.rstrip("\n")


def test_a_conversation_goes_on_until_an_empty_line(folder, monkeypatch, capsys):
    asked = []

    def answer(self, message, temperature, max_tokens):
        asked.append([*(m["content"] for m in self.messages), message])
        self.messages += [{"role": "user", "content": message}, {"role": "assistant", "content": "x"}]

    monkeypatch.setattr(Conversation, "answer", answer)
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n\nthree\n"))
    assert main(["llm", "chat", str(folder)]) == 0
    assert asked == [["one"], ["one", "x", "two"], ["three"]]


def test_messages_are_put_as_in_training(capsys):
    model, tokenizer = tiny_model().eval(), tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    talk = Conversation(model, tokenizer, "be short", "q: {prompt}?")
    first = talk.answer("one", max_tokens=3)
    said = [{"role": "user", "content": "q: one?"}]
    assert first == continuation(model, tokenizer, format_prompt(said, tokenizer, "be short"), 3)
    said += [{"role": "assistant", "content": first}, {"role": "user", "content": "q: two?"}]
    wanted = continuation(model, tokenizer, format_prompt(said, tokenizer, "be short"), 3)
    assert talk.answer("two", max_tokens=3) == wanted


def test_sampling_follows_the_seed_and_what_is_no_model_is_said(folder, capsys):
    texts = []
    for seed in ("1", "1", "2"):
        words = ["--prompt", "1+2=", "--temperature", "2.0", "--max-tokens", "12", "--seed", seed]
        assert main(["llm", "chat", str(folder), *words]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert main(["llm", "chat", str(folder / "nowhere"), "--prompt", "x"]) == 1
    assert "it does not exist" in capsys.readouterr().err
