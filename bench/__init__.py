"""Benchmarks: ratios against something simpler in the same run. Not part of the package."""
