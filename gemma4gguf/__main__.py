"""`python -m gemma4gguf`: the command line, where its programs are not on the path."""

from .cli import main

main()
