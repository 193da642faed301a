"""DRPO in one file: the whole algorithm in plain torch and transformers.

    drpo init demo && python demo/make_model.py demo/model     # a model of 0.6 M parameters
    python examples/drpo_in_one_file.py demo/model             # two minutes of one core

A language model learns two-digit addition by reinforcement learning. Each step

1. samples a group of responses to each prompt, and keeps the probability μ of every token,
2. scores the responses,
3. compares each score with the mean of its group: the advantage A,
4. takes several optimizer updates on Divergence Regularized Policy Optimization (DRPO,
   arXiv 2606.09821, Eq. 8). With π the probability of a token under the weights being trained and
   r = π / μ, the loss of one token is

       −A r + |A| μ (r − 1)² / (2 δ)

   The first term is the policy gradient, weighted for having been sampled from μ. The second keeps
   π near μ, and acts on the change of the *probability*, |π − μ|, rather than on the ratio r:
   the gradient on log π is −A r w with the weight

       w = 1 − sign(A (r − 1)) |π − μ| / δ

   A token that moves the way its advantage pushes it loses weight linearly, has none at
   |π − μ| = δ, and is pulled back beyond. A ratio bound (PPO, GRPO) would stop a rare token, with
   μ = 0.001, after a change of probability that matters to nobody.

What this file leaves out, and the package has: an inference engine that samples many times faster
(its μ then differs from the trainer's π before any update, and its weights must be replaced after
every step), sharding over several processes, packing without padding, rewards in processes of
their own, checkpoints, and the other objectives and advantages. `drpo_cli/step/loop.py` has the
same steps in the same order. A test holds that both compute the same gradient.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS_PER_STEP = 64
SAMPLES_PER_PROMPT = 8
UPDATES_PER_STEP = 2
MAX_NEW_TOKENS = 8
DELTA = 0.2
LEARNING_RATE = 4e-4
MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True)
class Episode:
    """A prompt and one sampled response, as token ids, with log μ of each response token."""

    prompt_ids: list[int]
    response_ids: list[int]
    logp_mu: list[float]


# --- the task -------------------------------------------------------------------------------------


def make_problem(rng: random.Random) -> tuple[str, str]:
    """A sum and its answer, last digit first: `12+34=` and `640`."""
    a, b = rng.randrange(100), rng.randrange(100)
    return f"{a:02d}+{b:02d}=", f"{a + b:03d}"[::-1]


def compute_reward(response: str, answer: str) -> float:
    """1 for the right answer and nothing else."""
    return float(response.strip() == answer)


# --- sampling -------------------------------------------------------------------------------------


@torch.no_grad()
def sample(
    model: torch.nn.Module, prompts: list[list[int]], max_new_tokens: int, eos_id: int
) -> list[Episode]:
    """One response to each prompt, sampled at temperature 1 from the whole distribution.

    Temperature, top-p and top-k must not change the distribution without changing μ with it: the
    loss divides by μ. All prompts must have the same length here.
    """
    responses: list[list[int]] = [[] for _ in prompts]
    logps: list[list[float]] = [[] for _ in prompts]
    tokens, cache = torch.tensor(prompts), None
    for _ in range(max_new_tokens):
        out = model(input_ids=tokens, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        logp = out.logits[:, -1].float().log_softmax(-1)  # [prompts, vocabulary]
        tokens = torch.multinomial(logp.exp(), 1)  # [prompts, 1]
        chosen = logp.gather(-1, tokens)
        for row, (token, value) in enumerate(
            zip(tokens[:, 0].tolist(), chosen[:, 0].tolist(), strict=True)
        ):
            if not responses[row] or responses[row][-1] != eos_id:
                responses[row].append(token)
                logps[row].append(value)
        if all(response[-1] == eos_id for response in responses):
            break
    return [Episode(*episode) for episode in zip(prompts, responses, logps, strict=True)]


# --- advantages -----------------------------------------------------------------------------------


def compute_advantages(rewards: list[float], group_size: int) -> list[float]:
    """Each response's reward less the mean of its group; groups lie one after the other."""
    grouped = torch.tensor(rewards).view(-1, group_size)
    return (grouped - grouped.mean(dim=1, keepdim=True)).flatten().tolist()


# --- the loss -------------------------------------------------------------------------------------


def drpo_loss(logp: Tensor, logp_mu: Tensor, advantage: Tensor, delta: float) -> Tensor:
    """DRPO's loss of each token (arXiv 2606.09821, Eq. 8); all arguments have one shape.

    logp       log π under the weights being trained, with its gradient
    logp_mu    log μ, from when the token was sampled
    advantage  A, the same for every token of a response
    """
    ratio = (logp - logp_mu).clamp(-20, 20).exp()
    penalty = advantage.abs() * logp_mu.exp() * (ratio - 1) ** 2 / (2 * delta)
    return -advantage * ratio + penalty


def batch_loss(
    model: torch.nn.Module, episodes: list[Episode], advantages: list[float], delta: float
) -> Tensor:
    """The mean DRPO loss over all response tokens of some episodes.

    Rows are padded on the right, which changes nothing for a causal model: no token sees a later
    one. The logits at place t predict the token at t + 1.
    """
    rows = [episode.prompt_ids + episode.response_ids for episode in episodes]
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    logp_mu, advantage = torch.zeros(len(rows), longest), torch.zeros(len(rows), longest)
    is_response = torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, (episode, row) in enumerate(zip(episodes, rows, strict=True)):
        start = len(episode.prompt_ids)
        ids[i, : len(row)] = torch.tensor(row)
        logp_mu[i, start : len(row)] = torch.tensor(episode.logp_mu)
        advantage[i, start : len(row)] = advantages[i]
        is_response[i, start : len(row)] = True

    logits = model(input_ids=ids[:, :-1], use_cache=False).logits.float()
    logp = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    loss = drpo_loss(logp, logp_mu[:, 1:], advantage[:, 1:], delta)
    return loss[is_response[:, 1:]].mean()


# --- one step, and all of them --------------------------------------------------------------------


def train_step(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    tokenizer: AutoTokenizer,
    rng: random.Random,
) -> float:
    """Samples, scores and learns; returns the mean reward."""
    problems = [make_problem(rng) for _ in range(PROMPTS_PER_STEP)]
    groups = [problem for problem in problems for _ in range(SAMPLES_PER_PROMPT)]
    prompts = [tokenizer(prompt).input_ids for prompt, _ in groups]

    episodes = sample(model, prompts, MAX_NEW_TOKENS, tokenizer.eos_token_id)
    texts = [tokenizer.decode(e.response_ids, skip_special_tokens=True) for e in episodes]
    rewards = [
        compute_reward(text, answer) for text, (_, answer) in zip(texts, groups, strict=True)
    ]
    advantages = compute_advantages(rewards, SAMPLES_PER_PROMPT)

    for update in range(UPDATES_PER_STEP):  # from the second on, π is no longer μ
        part = slice(update, None, UPDATES_PER_STEP)
        loss = batch_loss(model, episodes[part], advantages[part], DELTA)
        loss.backward()
        clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        optimizer.zero_grad()
    return sum(rewards) / len(rewards)


def main() -> None:
    """Trains the model of a folder, printing the mean reward as it goes."""
    parser = argparse.ArgumentParser(description="DRPO in one file.")
    parser.add_argument("model", help="a Hugging Face model folder, such as the quickstart's")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()

    torch.manual_seed(chosen.seed)
    rng = random.Random(chosen.seed)
    tokenizer = AutoTokenizer.from_pretrained(chosen.model)
    model = AutoModelForCausalLM.from_pretrained(chosen.model, dtype=torch.float32).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=chosen.steps)
    for step in range(1, chosen.steps + 1):
        reward = train_step(model, optimizer, tokenizer, rng)
        decay.step()
        if step == 1 or step % 10 == 0:
            print(f"step {step:4}  mean reward {reward:.3f}")


if __name__ == "__main__":
    main()
