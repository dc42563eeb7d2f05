"""Archives of every format, read as something that may be hostile."""
