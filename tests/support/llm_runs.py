"""A trainer on a tiny random model and sums of digits, for this process and for those that tests start."""

from tiny_models import tiny_model, tiny_tokenizer

from r2vpo.llm import R2VPOTrainer

ROWS = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(10) for b in range(10)]
SETTINGS = {
    "prompts_per_iteration": 8,
    "group_size": 4,
    "minibatch_size": 16,
    "max_prompt_tokens": 16,
    "max_completion_tokens": 4,
    "learning_rate": 3e-3,
    "total_rollouts": 32 * 6,
    "eval_every": 2,
    "torch_threads": 1,
}


def starts_with_a_digit(prompts, completions, answer, **columns):
    return [float(completion[:1].isdigit()) for completion in completions]


def make(reward=starts_with_a_digit, model=None, rows=ROWS, **settings):
    objects = {"train_dataset": rows, "eval_dataset": rows[:10], "processing_class": tiny_tokenizer()}
    return R2VPOTrainer(model or tiny_model(scale=0.1), reward, **{**objects, **SETTINGS, **settings})


def resume(run_dir, **objects):
    given = {"train_dataset": ROWS, "eval_dataset": ROWS[:10], "processing_class": tiny_tokenizer()}
    return R2VPOTrainer.resume(run_dir, tiny_model(scale=0.1), starts_with_a_digit, **{**given, **objects})
