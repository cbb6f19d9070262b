"""The dashboards for Grafana, as code: an overview of all fabrics, and one of a single fabric.

`queries` has what asks Prometheus, `panels` the few kinds of panels that there are, `overview` and `fabric` what is on
each dashboard. The JSON is committed in packaging/grafana/dashboards: Grafana reads it from there, and nobody who uses
it needs this code.
"""
