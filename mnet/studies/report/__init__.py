"""The report: everything that studies left behind, in one HTML file that opens without a network."""
