"""The loops that run beside the API: matcher, reconciler, settler, sealer."""
