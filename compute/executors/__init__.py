"""Where a slot's work runs: in a sandbox beside this process, or behind the provider's own Ray.

Stands on `compute.sandbox`. Read `executor.py` first; only `ray_cluster.py` imports ray.
"""
