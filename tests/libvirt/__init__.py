"""Tests with a real libvirt."""
