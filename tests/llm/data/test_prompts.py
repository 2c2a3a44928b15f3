"""From a row's prompt to tokens: templates, chats, system prompts."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

from r2vpo.errors import ConfigError
from r2vpo.llm.data.prompts import format_prompt, row_tokens
from r2vpo.llm.models.tiny_tokenizer import BOS_ID, make_tokenizer

MESSAGES = [{"role": "user", "content": "1+1="}]


CHAT_TEMPLATE = "{% for m in messages %}({{ m['content'] }}){% endfor %}{% if add_generation_prompt %}={% endif %}"


def plain(text):
    return make_tokenizer()(text, add_special_tokens=False)["input_ids"]


def test_plain_prompt_template_and_system_prompt():
    tokenizer = make_tokenizer()
    assert format_prompt("1+1=", tokenizer) == [BOS_ID, *plain("1+1=")]
    assert format_prompt("1+1", tokenizer, template="({prompt})=") == [BOS_ID, *plain("(1+1)=")]
    spaced = format_prompt("1+1=", tokenizer, system_prompt="2")
    assert spaced == tokenizer("2\n\n1+1=")["input_ids"]


def test_braces_in_problems_and_templates_are_text():
    tokenizer = make_tokenizer()
    assert format_prompt("{0}", tokenizer, template="{}{prompt}") == tokenizer("{}{0}")["input_ids"]


def test_chat_template_is_used_where_there_is_one():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    assert format_prompt("1+1", tokenizer) == plain("(1+1)=")
    assert format_prompt([{"role": "user", "content": "1+1"}], tokenizer) == plain("(1+1)=")
    assert format_prompt("1+1", tokenizer, system_prompt="7", template="{prompt},") == plain("(7)(1+1,)=")
    own = [{"role": "system", "content": "8"}, {"role": "user", "content": "1+1"}]
    assert format_prompt(own, tokenizer, system_prompt="7") == plain("(8)(1+1)=")


def test_messages_without_a_chat_template_are_refused():
    with pytest.raises(ConfigError, match="no chat template") as error:
        format_prompt(MESSAGES, make_tokenizer())
    assert error.value.field == "prompt"


def test_what_a_chat_template_refuses_is_an_error_that_names_the_setting():
    tokenizer = make_tokenizer()
    refuse = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    tokenizer.chat_template = refuse + CHAT_TEMPLATE
    assert format_prompt("1+1", tokenizer) == plain("(1+1)=")
    with pytest.raises(ConfigError, match=r"system_prompt='7'.*System role not supported"):
        format_prompt("1+1", tokenizer, system_prompt="7")
    with pytest.raises(ConfigError, match=r"prompt=.*System role not supported"):
        format_prompt([{"role": "system", "content": "8"}, *MESSAGES], tokenizer)


def test_what_a_chat_template_drops_or_cannot_take_is_named_with_its_row():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% for m in messages if m.role == 'user' %}({{ m.content }}){% endfor %}"
    settings = SimpleNamespace(prompt_column="prompt", system_prompt="7", prompt_template=None)
    with pytest.raises(ConfigError, match=r"system_prompt='7'.*drops 'system'; row 3 of the dataset"):
        row_tokens({"prompt": "1+1"}, tokenizer, settings, 3)
    settings.system_prompt = None
    assert row_tokens({"prompt": "1+1"}, tokenizer, settings, 3) == plain("(1+1)")
    for role in ("system", "tool", "User", "no such role"):
        with pytest.raises(ConfigError, match=rf"prompt=.*drops '{role}'; row 3"):
            row_tokens({"prompt": [*MESSAGES, {"role": role, "content": "8"}]}, tokenizer, settings, 3)
    for broken in ("{{ messages[0].content + 1 }}", "{{ messages[9].content.x }}", "{% if %}", "{{ 1 / 0 }}"):
        tokenizer.chat_template = broken
        with pytest.raises(
            ConfigError, match=r"prompt=.*chat template takes \(\w*(Type|Undefined|Syntax|Zero)\w*Error"
        ):
            format_prompt(MESSAGES, tokenizer)


def test_an_answer_that_is_begun_is_gone_on_with():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '(' + m['content'] + ')' }}{% endfor %}{% if add_generation_prompt %}={% endif %}"
    )
    assert format_prompt([*MESSAGES, {"role": "assistant", "content": "2"}], tokenizer) == plain("(1+1=)(2")


def test_parts_of_text_are_the_text():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    parts = [{"type": "text", "text": "1+"}, {"type": "text", "text": "1="}]
    assert format_prompt([{"role": "user", "content": parts}], tokenizer) == format_prompt(MESSAGES, tokenizer)


def test_an_end_of_text_that_a_tokenizer_adds_is_taken_off():
    from tokenizers import processors

    tokenizer = make_tokenizer()
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", tokenizer.eos_token_id)]
    )
    assert tokenizer("1=")["input_ids"][-1] == tokenizer.eos_token_id
    assert format_prompt("1=", tokenizer) == plain("1=")


def test_the_templates_of_known_models_take_chats_and_those_that_drop_something_are_found_out():
    trl = importlib.util.find_spec("trl") or pytest.skip("needs trl, for its chat templates")
    user = {"role": "user", "content": 'Is 3 < 4?\n\nThink  hard: $\\frac{1}{2}$ "é" '}
    answer, begun = ({"role": "assistant", "content": text} for text in ("<think>a</think> Yes", "So: <think>"))
    system, tool = {"role": "system", "content": "Be\nnice."}, {"role": "tool", "content": "42"}
    chats = {"twice": [user, answer, user], "begun": [user, begun], "told": [system, user], "tool": [user, tool]}
    refused = {name: set() for name in chats}
    for path in Path(trl.submodule_search_locations[0], "chat_templates").glob("*.jinja"):
        if path.stem.endswith("_training"):
            continue
        tokenizer = make_tokenizer()
        tokenizer.chat_template = path.read_text(encoding="utf-8")
        for name, chat in chats.items():
            try:
                format_prompt(chat, tokenizer)
            except ConfigError:
                refused[name].add(path.stem)
    parts_only = {"idefics3", "llava_next", "smolvlm"}  # they would leave a text out without a word
    assert refused["twice"] == refused["begun"] == parts_only
    assert refused["told"] == parts_only | {"gemma"}
    assert "phi3" in refused["tool"]
    assert not {"qwen3", "llama3_1"} & refused["tool"]
