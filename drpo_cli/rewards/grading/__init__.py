"""Calls the rewards on sampled responses, in processes of their own, and adds the scores up.

    trainer    grader.py    all rewards of a run; a batch: rollouts in any order → calls → Scores
               pool.py      sends calls to the server, completes their futures
    server     server.py    imports the rewards once, gives calls to workers, ends late ones
               forks.py     forks workers, each below a guard, and kills whole families
               prints.py    cuts and counts what workers print
    worker     worker.py    runs one reward
               score.py     one call of a reward, and the check of what it returns

`contract.py` reads from a reward's signature what it asks for, with `hints.py` for annotations;
`messages.py` is what the processes say to each other. A reward with `INLINE` is called in the
trainer.
"""
