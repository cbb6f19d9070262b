"""What can be said of fabrics now: seen from outside, by their stats pages, state pages and processes."""
