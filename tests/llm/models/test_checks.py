"""Models and tokenizers that cannot be trained together are refused before anything starts."""

from types import SimpleNamespace

import pytest
import torch
from llm_runs import ROWS, make
from tiny_models import lora, tiny_model, tiny_tokenizer

from r2vpo.errors import ConfigError
from r2vpo.llm.models.checks import check_vocabulary, padding_id

pytest.importorskip("accelerate")


def frozen():
    return tiny_model().requires_grad_(False)


@pytest.mark.parametrize(
    ("objects", "said"),
    [
        ({"model": frozen()}, r"model='Qwen2ForCausalLM'.*parameters to train: all 22,816 are frozen"),
        ({"model": tiny_model(vocab_size=40)}, r"model=.*each of the 53 tokens of its tokenizer; it has 40, and none"),
        ({"model": tiny_model().model}, r"model='Qwen2Model'"),
        ({"model": torch.nn.Linear(2, 2)}, r"model='Linear'.*causal language model"),
        ({"model": 3}, r"model='int'"),
        ({"processing_class": "gpt2"}, r"processing_class='str'.*tokenizer of transformers"),
        ({"model": "arithmetic", "processing_class": 3}, r"processing_class='int'"),
        ({"processing_class": SimpleNamespace(tokenizer=1)}, r"processor has one as its .tokenizer"),
        ({"processing_class": None}, r"processing_class=None"),
        ({"callbacks": [3]}, r"callbacks=.3.*functions of the trainer"),
        ({"reward": 3}, r"reward_funcs=3.*functions"),
        ({"reward": [len, None]}, r"reward_funcs=None"),
        ({"reward": dict}, r"reward_funcs='dict'.*give an object"),
        ({"reward": []}, r"reward_funcs=\[\].*at least one"),
    ],
)
def test_objects_that_cannot_be_trained_are_named(tmp_path, objects, said):
    with pytest.raises(ConfigError, match=said):
        make(run_dir=tmp_path / "run", **objects)
    assert not list(tmp_path.glob("run/config.json"))


def test_a_tokenizer_object_without_padding_trains_as_one_with_it_and_stays_as_it_was():
    weights = []
    for pad in (True, False):
        tokenizer = tiny_tokenizer(pad=pad)
        trainer = make(processing_class=tokenizer, total_rollouts=32, eval_every=0, eval_samples=0)
        trainer.train(progress_bar=False)
        assert tokenizer.pad_token == ("<pad>" if pad else None)
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_any_token_pads():
    tokenizer = tiny_tokenizer(pad=False)
    assert (padding_id(tiny_tokenizer()), padding_id(tokenizer)) == (0, tokenizer.eos_token_id)
    assert padding_id(tiny_tokenizer(pad=False, eos=False)) == 0


def test_tokens_beyond_the_embedding():
    tokenizer, model = tiny_tokenizer(), tiny_model(vocab_size=53)
    check_vocabulary(model, tokenizer, [(1, 52)], "m")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    check_vocabulary(lora(model), tokenizer, [(1, 52)], "m")  # Gemma 3's, whose text model has no embedding for it
    with pytest.raises(
        ConfigError, match=r"model='m'.*54 tokens.* it has 53, and none for '<image>' .*embeddings\(54\)"
    ):
        check_vocabulary(model, tokenizer, [(1,), tokenizer("<image>1")["input_ids"]], "m")
    tokenizer.add_special_tokens({"pad_token": "<PAD>"})
    with pytest.raises(ConfigError, match=r"55 tokens.* it has 53, and none for '<PAD>'"):
        check_vocabulary(model, tokenizer, [], "m")
    other = tiny_tokenizer()
    other.add_tokens(["<think>"])
    with pytest.raises(ConfigError, match=r"none for '<think>'"):
        check_vocabulary(model, other, [], "m")


def test_a_column_of_the_ground_truth_by_name_trains_as_the_usual_one():
    runs = []
    for column in ("answer", "gold"):
        rows = [{"prompt": row["prompt"], column: row["answer"]} for row in ROWS]
        trainer = make(
            "number", rows=rows, eval_dataset=rows[:10], answer_column=column, total_rollouts=32, eval_samples=0
        )
        runs.append((trainer.train(progress_bar=False)["accuracy_greedy"], trainer.model.state_dict()))
        assert trainer.collector.stream.problems[0].row["answer"] == rows[0][column]
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(runs[0][1][name], runs[1][1][name]) for name in runs[0][1])
