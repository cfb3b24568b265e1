"""What is behind collect_on_ray.py: which rounds are missing and who has them, and what a cluster's machines have."""

STOP_FILE = "stop"
"""In a run's folder, where all workers see it: they end at their next step."""
