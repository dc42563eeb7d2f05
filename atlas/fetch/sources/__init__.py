"""The kinds of source: for each, how its files are listed and under which https address each lies."""
