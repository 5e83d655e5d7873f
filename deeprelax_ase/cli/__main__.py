"""``python -m deeprelax_ase.cli`` is ``deeprelax``."""

from deeprelax_ase.cli import main

main()
