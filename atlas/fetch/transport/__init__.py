"""One file over HTTP or from a folder: ask, resume, retry, write."""
