"""What the commands share on the parent's side: options, run, document, terminal, transaction."""
