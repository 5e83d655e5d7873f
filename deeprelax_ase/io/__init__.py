"""One source and one sink of structures: files, folders, archives, databases and tables."""
