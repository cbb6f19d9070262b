"""The worker: one process, one loop, one fabric.

A worker is a service of its own and speaks systemd's protocols, so that systemd can run it as well as the supervisor
does. It starts fast and stays small, and so imports nothing but what it serves with: no YAML, no HTTP, no JSON, no
logging, no argparse, and no dataclasses, which alone cost a megabyte.
"""
