"""Who wants what, who offers what, and at which price they meet.

Stands on settlement, knows nothing of compute. Read `domain/job.py` first.
"""
