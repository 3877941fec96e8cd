"""What is read and written: sources, manifests, the output and its ledger, on any filesystem."""
