"""A first manifest, label map and recipe for a folder of the user's own scans."""
