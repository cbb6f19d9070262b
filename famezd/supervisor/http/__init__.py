"""Where famezd is asked: sockets, and who may ask what."""
