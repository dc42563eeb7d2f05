"""From a dataset's addresses to verified files on disk."""
