"""Names of folders and files that a path may have, and programs often misread."""

PATTERNS = "-a [b] {c} *?"
"""What a shell, a glob and a parser of options take for more than a name."""
REST = "~x%41 $HOME #'\"é&;=!^|(x):y, @::z"
"""What addresses, shells, Jinja, rich and TOML take for more than a name."""
NAMES = (PATTERNS + REST, "li\nne", "[b]")
NASTY = NAMES[0]
