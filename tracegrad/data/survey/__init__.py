"""What is in a database: sizes, shells, and how far its Hamiltonians reach."""
