"""Calls the rewards on sampled responses, in processes of their own, and adds the scores up.

    trainer    grader.py    all rewards of a run; a batch: rollouts in any order → calls → Scores
               pool.py      sends calls to the server
    server     server.py    gives calls to workers, and repeats those that another call has ended
    worker     score.py     one call of a reward, and the check of what it returns

`contract.py` reads from a reward's signature what it asks for, with `hints.py` for annotations. The
processes are those of `drpo_cli/calls`. A reward with `INLINE` is called in the trainer.
"""
