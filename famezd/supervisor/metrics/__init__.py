"""The metrics, and the scrape that tells them."""
