"""Calls of code that nobody has read, in processes that can be killed: rewards, environments.

    trainer    pool.py      sends requests to a server, completes their futures
    server     server.py    imports the user's code once, passes requests on, ends everything
               crew.py      the processes of one reward or environment, and calls with a time limit
               forks.py     forks workers, each below a guard, and kills whole families
               prints.py    cuts and counts what workers print
    worker     worker.py    answers requests, one by one or together

`messages.py` is what the processes say to each other; `failures.py` is why a call gave nothing.
What is called, and which worker gets which request, is the business of those who use this:
`rewards/grading` (any worker may answer a call) and `environments/sessions` (episodes, whose state
lives in one worker).
"""
