"""Models: cards, the registry of those that ship with the package, and their weights."""
