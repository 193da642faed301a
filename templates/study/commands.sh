#!/bin/sh
# The study's commands, one per part. `sh commands.sh` runs all of them, `sh commands.sh rare precision`
# some. Each continues where it was stopped; finished runs are not repeated. JOBS is the number of runs at
# a time, one core each. What is compared, and on what, was written down before the first run
# (docs/study.md): change it in a copy.
set -eu
cd "$(dirname "$0")"
JOBS=${JOBS:-2}

METHODS="none,ppo_clip,grpo,spo,dppo,dppo:divergence=kl,drpo"

bases() { # NAME: the five base models of a recipe
    echo "models/$1-2,models/$1-3,models/$1-4,models/$1-5,models/$1-6"
}

compare() { # PART BASE TARGET OPTIONS…
    part=$1
    base=$2
    target=$3
    shift 3
    drpo compare --vary "objective=$METHODS" "$@" --bases "$(bases "$base")" --select-seeds 0 --halve \
        --baseline ppo_clip --target "$target" --jobs "$JOBS" --out "runs/$part"
}

tuned() { # like compare: chooses thresholds and learning rates on one seed, reports others
    compare "$@" --report-seeds 10-13 \
        --tune ppo_clip:epsilon_low+epsilon_high=0.05,0.1,0.2,0.3,0.5 \
        --tune grpo:epsilon_low+epsilon_high=0.05,0.1,0.2,0.3,0.5 \
        --tune spo:epsilon=0.2,0.5,1,3,12.5 \
        --tune dppo:delta_low+delta_high=0.02,0.05,0.1,0.15,0.3 \
        --tune dppo:divergence=kl:delta_low+delta_high=0.005,0.02,0.05,0.1,0.3 \
        --tune drpo:delta=0.05,0.1,0.2,0.5,12.5 \
        --tune train.learning_rate=1.5e-4,3e-4,6e-4
}

as_in_lag() { # like compare: with what did best at lag 4 and 1.5e-4 when "lag" chose
    compare "$@" --report-seeds 10 --vary lag=4 \
        --tune ppo_clip:epsilon_low+epsilon_high=0.05 \
        --tune grpo:epsilon_low+epsilon_high=0.1 \
        --tune spo:epsilon=0.5 \
        --tune dppo:delta_low+delta_high=0.02 \
        --tune dppo:divergence=kl:delta_low+delta_high=0.005 \
        --tune drpo:delta=0.5 \
        --tune train.learning_rate=1.5e-4
}

on_policy() { # with lag 1 every objective has the same gradient, so one of them serves for all
    drpo compare run.toml --vary objective=none --vary lag=1 --tune train.learning_rate=1.5e-4,3e-4,6e-4 \
        --bases "$(bases sums)" --select-seeds 0 --report-seeds 10-13 --halve \
        --target 0.4 --jobs "$JOBS" --out runs/on-policy
}

lag() {
    on_policy
    tuned lag sums 0.4 run.toml --vary lag=4,16
}

rare() {
    tuned rare rare 0.5 rare.toml
}

precision() { # the engine as exact as the trainer or less, then both in bfloat16 with two kinds of head
    as_in_lag precision-engine sums 0.4 run.toml \
        --vary rollout=transformers,transformers:dtype=bfloat16,transformers:dtype=float32:weight_rounding=fp8
    for head in float32 model; do
        as_in_lag "precision-head-$head" sums 0.4 run.toml \
            --set model.dtype=bfloat16 --set "train.head_dtype=$head" --set "rollout.head_dtype=$head"
    done
}

architecture() {
    as_in_lag architecture sums-moe 0.4 run.toml
}

real() { # thresholds of this package and of papers, and three seeds: two runs at a time take 11 minutes
    papers="spo:epsilon=12.5,dppo:divergence=kl:delta_low=0.05:delta_high=0.05"
    drpo compare real.toml --seeds 0-2 --baseline ppo_clip --target 0.5 --jobs "$JOBS" --out runs/real \
        --vary "objective=$METHODS,$papers"
}

[ $# -gt 0 ] || set -- lag rare precision architecture real
for name in "$@"; do
    case $name in
        lag | rare | precision | architecture | real) "$name" ;;
        *) echo "there is no part $name" >&2 && exit 2 ;;
    esac
done
