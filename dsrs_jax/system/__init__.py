"""What every room stands on: errors, whole writes, signals, several processes, heartbeats."""
