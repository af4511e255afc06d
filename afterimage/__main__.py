"""``python -m afterimage`` is the ``afterimage`` command."""

from afterimage.cli import main

main()
