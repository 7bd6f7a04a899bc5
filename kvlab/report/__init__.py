"""Reports out of a run's database: Markdown, HTML, the day's index."""
