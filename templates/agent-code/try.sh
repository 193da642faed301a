#!/bin/sh
# Runs three steps of this run on a CPU, with a random model of 0.3 M parameters and without a download.
# Every part runs, and nothing is learned. A random model hardly ever gets a reward; the entropy bonus
# makes sure that there is a gradient. `sh try.sh --set …` changes more settings.
set -eu
cd "$(dirname "$0")"
[ -d models/tiny ] || python -m drpo_cli.tools.tiny models/tiny
drpo train run.toml \
    --set model.path=models/tiny --set model.dtype=float32 \
    --set run.name=try --set run.steps=3 \
    --set rollout.prompts_per_step=2 --set rollout.samples_per_prompt=4 \
    --set rollout.max_new_tokens=48 --set rollout.context_length=2048 \
    --set eval.problems=2 --set eval.samples_per_prompt=2 \
    --set train.updates_per_rollout=2 --set train.warmup_updates=0 --set train.entropy_bonus=0.01 \
    "$@"
