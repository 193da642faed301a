"""From data sources to batches: rows become problems, problems become prompts, prompts are served.

rows     opens the sources and names their rows
columns  maps the named columns of a table to prompt and answer
split    holds evaluation problems out
prompts  renders a row for the model's tokenizer
stream   serves the training prompts of each step
"""
