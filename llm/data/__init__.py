"""Problems to train and evaluate on: their sources, files and prompts."""
