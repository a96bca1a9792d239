"""Model runtimes behind one interface: transformers in this process, or vLLM in its own."""
