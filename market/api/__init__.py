"""The HTTP API: routes and their composition in `app.py`."""
