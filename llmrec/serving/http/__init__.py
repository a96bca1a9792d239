"""The HTTP application: OpenAI's routes, recommendations, the catalogue, and the page."""
