"""The parts of ``scripts/bench_attack.py``."""
