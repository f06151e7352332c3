"""The benchmark suite behind ``python -m bench``: workloads, their measurement on each loop, results and reports."""
