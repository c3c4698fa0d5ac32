"""What each command does, one file each; `main` is the command itself."""
