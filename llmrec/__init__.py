"""llmrec: fine-tune language models for generative recommendation."""

__version__ = "0.1.0"
