"""WindFlow's realtime backend. Importing any module of it starts nothing and discovers nothing."""
