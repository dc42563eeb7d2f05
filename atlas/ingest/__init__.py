"""From files on disk to scans, checked before use."""
