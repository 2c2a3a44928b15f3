"""``r2vpo control tune``: settings found by trying, with Optuna, equally long for each of several methods."""
