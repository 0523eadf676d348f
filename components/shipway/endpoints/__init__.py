"""Endpoints: where a released model is served, behind one interface.

Nothing is imported here, because a server process needs `claim` and nothing else of it.
"""
