"""Reports in Markdown, and their charts."""
