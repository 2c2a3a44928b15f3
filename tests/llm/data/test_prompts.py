"""From a row's prompt to tokens: templates, chats, system prompts."""

import pytest

from r2vpo.errors import ConfigError
from r2vpo.llm.data.prompts import format_prompt
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


def test_an_end_of_text_that_a_tokenizer_adds_is_taken_off():
    from tokenizers import processors

    tokenizer = make_tokenizer()
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", tokenizer.eos_token_id)]
    )
    assert tokenizer("1=")["input_ids"][-1] == tokenizer.eos_token_id
    assert format_prompt("1=", tokenizer) == plain("1=")
