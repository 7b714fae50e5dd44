"""What streams cost, ours beside the others, in one run: `python -m benchmarks`. See docs/performance.md."""
