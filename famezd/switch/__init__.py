"""The switch: what the server itself does on a fabric, chosen by the fabric's personality."""
