"""A trained policy outside this library: one file with everything inside, and a place on a hub."""
