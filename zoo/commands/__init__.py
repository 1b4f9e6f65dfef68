"""What the command line can do: one class a command, its fields are its options."""
