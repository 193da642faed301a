"""Tools that a model may call: typed functions, built-in ones, and servers.

`toolbox.py` makes them from the texts in a spec; `schema.py` describes a function to the model and
checks the arguments that the model wrote.
"""

from drpo_cli.environments.toolkit.answers import Submit as Submit
from drpo_cli.environments.toolkit.answers import ToolError as ToolError
