"""The benchmark behind ``make bench``: the service, its load and its endpoints as processes of their own on one machine.

`python -m benchmarks` prints a table and writes JSON; docs/performance.md says how each figure is made.
"""
