"""`python -m drpo_cli` is `drpo`."""

from drpo_cli.cli import main

if __name__ == "__main__":
    main()
