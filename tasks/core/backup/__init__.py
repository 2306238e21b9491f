"""Taking a set: rows inherited by a differential, lost rows, and the script to restore by hand."""
