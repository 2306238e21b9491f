"""One run of a flow: its site, folder, programs, progress, artifacts, retries and approval."""
