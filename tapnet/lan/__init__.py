"""This package is the host's side of the real LAN: bridges over an uplink, routed TAPs, VXLAN, and what
``tapnet doctor`` looks at there.

Control plane only: rtnetlink by pyroute2's synchronous API, from a command or from a worker thread.
"""
