"""The report: all results of the studies, in one HTML file that opens without a network."""
