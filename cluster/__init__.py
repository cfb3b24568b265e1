"""What is behind collect_on_ray.py: which rounds are missing and who has them, and what a cluster's machines have."""
