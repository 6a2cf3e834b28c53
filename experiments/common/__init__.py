"""What the programs share: the command line, the declared studies, running them, and output to the terminal."""
