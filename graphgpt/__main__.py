"""``python -m graphgpt``: the command, where no folder of scripts is on the path."""

from graphgpt.cli.main import main

main()
