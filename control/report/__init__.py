"""``r2vpo report``: study lines in one HTML page with its pictures, and every number of it in one JSON file."""
