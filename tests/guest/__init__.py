"""Real Linux guests on real fabrics, with famezd's own client inside."""
