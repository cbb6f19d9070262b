"""Tests with real QEMU machines, and the rig that drives them."""
