"""A checkpoint as a service: engines, an OpenAI-compatible HTTP application, and batch recommendation."""
