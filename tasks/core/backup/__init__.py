"""Taking a set: what a differential inherits, which rows were lost, and the script that restores it by hand."""
