"""The `sward` command."""
