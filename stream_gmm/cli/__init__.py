"""The command line: options made from the configuration model, displays, commands."""
