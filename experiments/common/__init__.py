"""What several programs share: options, terminal output, the driver of a study."""
