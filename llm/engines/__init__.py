"""What generates completions: Hugging Face and vLLM."""
