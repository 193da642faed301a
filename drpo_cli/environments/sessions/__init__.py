"""Episodes of environments in worker processes that can be killed.

    trainer    pool.py      opens episodes, sends actions; futures of answers
    server     server.py    finds a worker for each episode, and keeps it there
    worker     worker.py    calls the instance of an episode, or its tools
               checks.py    what `start` and `step` may return, as plain messages
               tools.py     the calls of tools in one action

`contract.py` reads what the class of an environment has and asks for; `messages.py` is what is
sent; `schemas.py` has the tools that an environment brings itself. The processes are those of
`drpo_cli/calls`, other tools those of `environments/toolkit`.

An episode lives in one process, which has no other one at the same time (of an async environment:
up to `concurrency`). A process serves one episode after the other; after a crash, or a call that
took longer than `timeout_s`, the next one gets a new process. No call is repeated, except a first
call (`start`) whose process died from what was there before.
"""
