#!/bin/sh
# The study's commands, one per part. `sh commands.sh` runs all of them, `sh commands.sh rare precision`
# some. Each continues where it was stopped; finished runs are not repeated. Every method has the same
# learning rates and the same seeds. JOBS is the number of runs at a time, one core each.
set -eu
cd "$(dirname "$0")"
JOBS=${JOBS:-2}

BASELINES="none,ppo_clip,ppo_clip:epsilon_high=0.28,spo,dppo,dppo:divergence=kl"
DELTAS="drpo:delta=0.05,drpo:delta=0.1,drpo:delta=0.2,drpo:delta=0.5,drpo:delta=1,drpo:delta=12.5"

METHODS="$BASELINES,drpo:delta=0.2,drpo:delta=12.5"
SIX="none,ppo_clip,spo,dppo,drpo:delta=0.2,drpo:delta=12.5"

SEEDS=0-4

compare() { # PART SPEC KEY=VALUES…: runs a grid over the seeds, in runs/PART
    part=$1
    spec=$2
    shift 2
    for vary in "$@"; do
        set -- "$@" --vary "$vary"
        shift
    done
    drpo compare "$spec" "$@" \
        --seeds "$SEEDS" --jobs "$JOBS" --baseline ppo_clip --out "runs/$part"
}

staleness() { # 12 methods × 3 learning rates × 3 numbers of updates × 5 seeds = 540 runs
    compare staleness run.toml "objective=$BASELINES,$DELTAS" train.learning_rate=1e-4,3e-4,6e-4 \
        train.updates_per_rollout=1,4,16
}

reasoning() { # 8 × 3 × 5 = 120 runs
    compare reasoning reasoning.toml "objective=$METHODS" train.learning_rate=1e-4,3e-4,6e-4
}

rare() { # 8 × 2 × 5 = 80 runs
    compare rare rare.toml "objective=$METHODS" train.learning_rate=1e-4,3e-4
}

precision() { # 6 × 4 engines × 5 = 120 runs
    engines="transformers:dtype=float32,transformers:dtype=bfloat16"
    rounded="transformers:dtype=float32:weight_rounding"
    compare precision precision.toml "objective=$SIX" \
        "rollout=$engines,$rounded=int8,$rounded=fp8" train.learning_rate=6e-4
}

architecture() { # 6 × 2 models × 5 = 60 runs
    compare architecture architecture.toml "objective=$SIX" \
        model.path=models/sums,models/sums-moe train.learning_rate=6e-4
}

duel() { # the two best methods in the two hard cells of staleness, with 20 seeds: 2 × 20 runs, twice
    SEEDS=0-19
    two="objective=ppo_clip,drpo:delta=0.2"
    compare duel-16 run.toml "$two" train.learning_rate=3e-4 train.updates_per_rollout=16
    compare duel-4 run.toml "$two" train.learning_rate=6e-4 train.updates_per_rollout=4
    SEEDS=0-4
}

[ $# -gt 0 ] || set -- staleness duel reasoning rare precision architecture
for name in "$@"; do
    case $name in
        staleness | duel | reasoning | rare | precision | architecture) "$name" ;;
        *) echo "there is no part $name" >&2 && exit 2 ;;
    esac
done
