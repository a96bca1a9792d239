"""Side-by-side runs against other ways to do the same; results/ holds JSON with versions and hardware."""
