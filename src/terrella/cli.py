"""The command line: `terrella demo | record | train | play | evaluate | info`."""
