"""Taking a set: rows inherited by a differential, lost rows, and the script that restores it by hand."""
