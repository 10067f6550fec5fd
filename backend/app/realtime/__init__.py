"""The core: committed events on their way to connections and plugins. Knows no web framework."""
