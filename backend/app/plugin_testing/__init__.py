"""The pytest plugin for authors of plugins: a recording context, the real manager, a real server.

Loaded by pytest in every repository where WindFlow is installed. Invariant: until one of its
fixtures is used, nothing of WindFlow is imported and nothing is started.
"""
