"""What famezd answers: the API, and the page with its events."""
