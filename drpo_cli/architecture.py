"""What the layers of a model are, by its config.json: whether sequences can be packed end to end.

This is what is known before a model loads, so that `drpo check` can say it, without torch. The
trainer proves it when it loads the model (`trainer.packable`), and finds what is not listed here.
"""

from __future__ import annotations

PACKABLE_LAYERS = {"full_attention", "sliding_attention"}
