"""An engine that obeys the protocol of rollouts and knows sums, and an evaluation with it."""

import numpy as np

from r2vpo.llm.engines.base import Completion
from r2vpo.llm.evaluation.protocol import EvaluationProtocol
from r2vpo.llm.evaluation.run import evaluate
from r2vpo.llm.rewards.exact import exact

EOS = 0


class CharacterTokenizer:
    """A token a character; 0 ends."""

    chat_template = None
    eos_token_id, eos_token = EOS, "<eos>"

    def __call__(self, text):
        return {"input_ids": [ord(c) for c in text]}

    def decode(self, tokens, skip_special_tokens=False):
        assert skip_special_tokens
        return "".join(chr(t) for t in tokens if t != EOS)


class AddingEngine:
    """Adds right with a chance that only the completion's own seed decides; always when greedy and the sum is even."""

    weight_version = 0

    def __init__(self, chance=0.5, die_after=None):
        self.chance, self.die_after = chance, die_after
        self.calls, self.seen = [], 0

    def generate(self, prompts, group_size, sampling, seeds):
        assert len(seeds) == len(prompts) * group_size
        self.calls.append((len(prompts), group_size, sampling))
        completions = []
        for i, seed in enumerate(seeds):
            text = "".join(map(chr, prompts[i // group_size]))
            total = sum(map(int, text.removesuffix("=").split("+")))
            right = total % 2 == 0 if sampling.temperature == 0 else np.random.default_rng(seed).random() < self.chance
            tokens = [ord(c) for c in str(total if right else total + 1)] + [EOS]
            cut = tokens[: sampling.max_tokens]
            log_probs = np.zeros(len(cut), np.float32)
            completions.append(Completion(np.array(cut, np.int32), log_probs, len(cut) == len(tokens), 0))
        self.seen += len(prompts)
        if self.die_after is not None and self.seen > self.die_after:
            raise KeyboardInterrupt
        return completions

    def sync_weights(self, model, version):
        raise AssertionError("an evaluation changes no weights")

    def close(self):
        self.closed = True


def rows(count=12):
    return [{"prompt": f"{i}+{2 * i + 3}=", "answer": str(3 * i + 3), "id": f"sum-{i}"} for i in range(count)]


PROTOCOL = EvaluationProtocol(samples=4, k=(1, 2, 4), max_tokens=8)


def run(engine=None, protocol=PROTOCOL, reward=exact, problems=None, **options):
    return evaluate(engine or AddingEngine(), CharacterTokenizer(), problems or rows(), reward, protocol, **options)
