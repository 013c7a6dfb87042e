"""Training of one run by several processes: starting them, Fabric, collective operations."""
