"""From a scan to its canonical volume: pure functions on arrays and affines, no files."""
